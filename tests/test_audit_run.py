"""The whole audit on tiny models: known answers, what people bring, and one clear line for what cannot be."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audit_models as models
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dpsnn
from dpsnn.attacks.base import DIVERGED
from dpsnn.audit import plan, promises
from dpsnn.audit import wire as wires
from dpsnn.audit.attacking import Attempt, _is_plain, _keep, _read
from dpsnn.audit.doubts import _row as as_in_tables
from dpsnn.audit.gate import gate
from dpsnn.audit.one_cut import _row
from dpsnn.audit.plan import NEAREST, RIDGE, Budget, Planned
from dpsnn.audit.result import AuditResult
from dpsnn.audit.run import audit, cut_names
from dpsnn.audit.wire import Wire
from dpsnn.cli import main
from dpsnn.defences.noise import LaplaceNoise
from dpsnn.errors import UsageError
from dpsnn.evaluation import bounds
from dpsnn.target import Target

FILE = str(Path(models.__file__))

DECODER = Planned("decoder", "learned decoder", {"max_epochs": 2, "augment": "none"}, asks=False)
INVERSION = Planned("inversion", "inversion", {"steps": 4, "restarts": 1}, True, asks=False, own=6)
MIXTURE = Planned("mixture", "likelihood mixture", noise=True)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """A budget of closed forms and of attacks that take few steps."""
    attacks = (RIDGE, NEAREST, DECODER, MIXTURE, INVERSION)
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 1e-3, attacks))


def closed(monkeypatch: pytest.MonkeyPatch, own: int = 120, victims: int = 60) -> None:
    """Closed forms alone."""
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(own, victims, 0.0, (RIDGE, NEAREST)))


def digits(count: int = 150) -> tuple[Tensor, Tensor]:
    """Real digits of 8×8 pixels, as floats."""
    found = load_digits()
    images = torch.from_numpy(found.images[:count] / 16).float().unsqueeze(1)
    return images, torch.from_numpy(found.target[:count])


def only(result: AuditResult) -> dict[str, Any]:
    (cut,) = result.cuts
    return cut


def test_the_identity_leaks_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch, 700, 300)
    cut = only(audit(models.identity, digits(1000)))
    assert cut["verdict"]["level"] == "leaks" and "leaks" in cut["verdict"]["sentence"]
    assert cut["strongest"]["MSE"]["value"] < 1e-4
    assert cut["strongest"]["SSIM"]["value"] > 0.999
    assert cut["strongest"]["MSE"]["by"] == ["linear map (ridge)"]
    assert cut["reidentified"]["value"] == 1 and cut["reidentified"]["candidates"] == 300
    assert cut["dcorr"]["value"] == pytest.approx(1, abs=1e-3) and abs(cut["dcorr"]["floor"]) < 0.3
    assert "no guarantee" in cut["guarantees"]["words"]


def test_a_constant_client_is_at_the_floor() -> None:
    result = audit(models.constant, digits())
    cut = next(c for c in result.cuts if c["name"] == "silent")
    floors = {each["column"]: each["floor"] for each in result.measures}
    assert cut["strongest"]["MSE"]["value"] == pytest.approx(floors["MSE"], rel=0.1)
    assert cut["verdict"]["level"] == "floor"
    (ridge,) = (each for each in cut["attacks"] if each["attack"] == "ridge")
    assert ridge["measures"]["MSE"]["value"] == pytest.approx(floors["MSE"], rel=0.01)
    assert any("no gradient" in flag["raised"] for flag in cut["flags"])


def test_of_gaussian_pictures_the_best_is_wieners(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear client with Gaussian noise: the posterior mean and its error are known."""
    closed(monkeypatch, 3000, 1000)
    spread, noise = 0.1, 0.15
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + spread * torch.randn(5000, 1, 4, 4, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 2))
    given = images.clamp(0, 1), torch.arange(5000) % 2
    cut = only(audit(model, given, cuts=["1"], gaussian_std=noise))
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    a = layer.weight.detach().double()
    heard = spread**2 * a @ a.T + noise**2 * torch.eye(12)
    left = spread**2 * torch.eye(16) - spread**4 * a.T @ torch.linalg.solve(heard, a)
    wiener = float(left.trace()) / 16
    assert cut["strongest"]["MSE"]["value"] == pytest.approx(wiener, rel=0.05)
    assert cut["bounds"]["mse"] <= cut["strongest"]["MSE"]["high"]


def test_a_saturated_client_is_not_called_private(monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch, 600, 200)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    layer = model[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.mul_(1e5)
    cut = only(audit(model, digits(1000), cuts=["2"]))
    assert any("no gradient" in flag["raised"] for flag in cut["flags"])
    assert cut["verdict"]["level"] == "leaks"


def test_what_stands_in_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = audit(models.layers, digits(), cuts=["5", "7"], out=tmp_path)
    assert AuditResult.load(tmp_path) == result
    assert [cut["name"] for cut in result.cuts] == ["5", "7"]
    cut = result.cuts[1]
    assert [each["status"] for each in cut["attacks"]] == ["ok"] * 5
    assert [each["victims"] for each in cut["attacks"]] == [60] * 5
    assert [each["learns"] for each in cut["attacks"]] == [True, False, True, False, True]
    assert {each["column"] for each in result.measures} >= {"MSE", "PSNR", "SSIM", "RelativeL2"}
    assert {*cut["strongest"]} == {each["column"] for each in result.measures}
    for found in cut["strongest"].values():
        assert found["low"] <= found["value"] <= found["high"] and found["tried"] == 5
    accuracy = cut["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"] and accuracy["floor"] >= 10
    assert sum(each["victims"] for each in cut["by_class"]) == 60
    images, labels = digits()
    rows = [cut["pictures"]["victims"][which] for which in ("best", "median", "worst")]
    scores = [cut["pictures"]["scores"][which]["MSE"] for which in ("best", "median", "worst")]
    assert scores[0] >= scores[1] >= scores[2] and len({*rows}) == 3 and max(rows) < len(images)
    assert cut["distribution"]["worst_victim"] == rows[2]
    assert cut["distribution"]["quantiles"]["0.5"] >= cut["distribution"]["worst_one_percent"]
    assert (
        result.data["own"] == 75
        and result.data["victims"] == 60 == result.settings["victims_scored"]
    )
    said = capsys.readouterr().err
    first, second = said.split("audit: cut 2/2 7: linear map", 1)
    lines = [line for line in first.splitlines() if line.startswith("audit: cut 1/2")]
    assert "left" not in lines[0], "of the first attack nothing is known"
    assert second.splitlines()[0].endswith("left") and "done in" in second


def test_an_audit_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch)
    given: dict[str, Any] = {"cuts": ["7"], "out": tmp_path}
    first = audit(models.layers, digits(), **given)
    kept = sorted((tmp_path / "attacks").iterdir())
    assert [path.name.partition("-")[0] for path in kept] == ["nearest", "ridge"]
    from dpsnn.audit import attacking

    def refuse(*_: Any) -> Any:
        raise AssertionError("made anew")

    monkeypatch.setattr(attacking, "_attacked", refuse)
    again = audit(models.layers, digits(), **given)
    assert [cut["attacks"] for cut in again.cuts] == [cut["attacks"] for cut in first.cuts]
    # What is damaged is made anew, and so is what was made otherwise.
    kept[0].write_bytes(b"no file")
    assert [
        each["status"] for each in only(audit(models.layers, digits(), **given))["attacks"]
    ] == [
        "ok",
        "failed",
    ]
    other = only(audit(models.layers, digits(), **given, noise_scale=0.1))
    assert [each["status"] for each in other["attacks"]] == ["failed", "failed"]
    assert "AssertionError: made anew" in other["attacks"][0]["reason"]
    monkeypatch.setattr(attacking, "MAKING", attacking.MAKING + 1)
    later = only(audit(models.layers, digits(), **given))
    assert [each["status"] for each in later["attacks"]] == ["failed", "failed"]
    assert other["verdict"]["level"] == "unknown" and other["pictures"] is None


def test_twice_the_epochs_that_diverged_are_kept_and_said(tmp_path: Path) -> None:
    pictures, codes = torch.rand(3, 1, 4, 4), torch.zeros(3, 2)
    heard = codes.unsqueeze(0)
    given = Wire(pictures, codes, pictures, heard, pictures, torch.zeros(3).long(), heard)
    settings = {"doubling": DIVERGED, "epochs": 3, "augment": "warp", "learning_rate": None}
    settings = {name: value for name, value in settings.items() if _is_plain(value)}
    assert [*settings] == ["epochs", "augment", "learning_rate"]
    guesses, path = torch.rand(3, 1, 4, 4), tmp_path / "ridge.npz"
    made = [
        Attempt(plan.NEAREST, seed, guesses=guesses, doubling=gain, settings=settings)
        for seed, gain in enumerate([0.01, DIVERGED])
    ]
    _keep(path, made[1])
    again = _read(path, plan.NEAREST, 1, given)
    assert again and again.doubling == DIVERGED and again.settings == settings
    for attempts, gain, said in ((made[:1], 0.01, "0.01"), (made, None, "-inf")):
        row = json.loads(json.dumps(_row(attempts, {}, None), allow_nan=False))
        assert (row["doubling"], row["diverged"]) == (gain, gain is None)
        assert as_in_tables(row, "model")["Doubling"] == said


@pytest.mark.parametrize("cuts", ["stem,pool", "stem, pool", ["stem,", "pool"], ["stem", "pool"]])
def test_cuts_may_have_commas_between(cuts: Any) -> None:
    assert cut_names(cuts) == ["stem", "pool"]
    with pytest.raises(UsageError, match="--cuts names no cut"):
        cut_names([","])


def test_noise_is_bounded_and_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = (RIDGE, NEAREST, MIXTURE)
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 0.0, attacks))
    watched: list[tuple[Wire, dict[str, Tensor]]] = []

    def watch(wire: Wire, guesses: dict[str, Tensor]) -> Any:
        watched.append((wire, guesses))
        return bounds_of_all(wire, guesses)

    bounds_of_all = promises.bounds
    monkeypatch.setattr(promises, "bounds", watch)
    result = audit(models.layers, digits(), cuts=["7"], gaussian_std=3.0, queries=2)
    cut = only(result)
    # Every attack is held against the bound, not only the strongest.
    ((wire, guesses),) = watched
    assert [*guesses] == [f"{row['label']}, seed 0" for row in cut["attacks"]]
    limits, beaten = bounds_of_all(wire, {**guesses, "one that cheats": wire.victims})
    assert limits is None and beaten.startswith("one that cheats: ")
    assert result.settings["defences"] == ["Gaussian(std=3.0)"] and result.settings["queries"] == 2
    assert [each["attack"] for each in cut["attacks"]] == [
        "ridge",
        "nearest",
        "mixture",
        "ensemble",
    ]
    promised = cut["guarantees"]
    assert promised["epsilon"] > 0 and promised["delta"] == 1e-5 and promised["candidates"] == 60
    assert promised["set"] == "each of 16 values in [-1, 1]"
    assert cut["reidentified"]["low"] <= promised["naming"] < 1
    assert promised["with_clip"]["naming"] <= promised["naming"] + 1e-9
    assert 0 <= promised["dfil_low"] < promised["dfil"] < promised["dfil_high"]
    limits = cut["bounds"]
    assert 0 < limits["mse"] <= cut["strongest"]["MSE"]["high"] and limits["n"] == 60
    assert limits["low"] < limits["mse"] < limits["high"]
    assert cut["reidentified"]["low"] <= limits["named"] <= 1


def test_a_picture_of_which_nothing_is_told_has_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where every unit of a ReLU is silent no slope tells anything, and 1/dFIL is infinite."""
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 0.0, (RIDGE,)))

    def silent() -> nn.Module:
        first = nn.Linear(64, 3)
        nn.init.constant_(first.weight, 1 / 64)
        nn.init.constant_(first.bias, -0.31)  # about the mean of all pixels
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(3, 10))

    cut = only(audit(silent, digits(), cuts=["2"], gaussian_std=0.1))
    promised = cut["guarantees"]
    assert (promised["dfil"], promised["dfil_low"], promised["dfil_high"]) == (None, None, None)
    assert cut["bounds"]["mse"] > 0


def test_a_promise_that_is_not_kept_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client beyond the set that is claimed for it: of 60 pictures all are named, and few should be."""
    closed(monkeypatch)
    cut = only(audit(models.layers, digits(), cuts=["7"], gaussian_std=3.0))
    promised, found = cut["guarantees"], cut["reidentified"]
    assert promises.kept(promised, found, "") == (promised, "")
    broken, said = promises.kept(promised, {**found, "value": 1.0}, "")
    assert broken["naming"] is broken["epsilon"] is broken["with_clip"] is None
    assert "contradicts" in broken["words"] and said.startswith("100 of 100 were named among 60, ")
    assert promises.kept(promised, None, "beaten") == (broken, "beaten")
    monkeypatch.setattr(promises, "bounds", lambda *_: (None, "somebody knows what nobody can"))
    cut = only(audit(models.layers, digits(), cuts=["7"], gaussian_std=3.0))
    assert cut["guarantees"] == broken
    assert any("somebody knows" in flag["raised"] for flag in cut["flags"])


def test_who_beats_the_bound_is_told_where_a_client_has_no_gradient() -> None:
    images = digits(60)[0]
    target = Target.of_client(models.blind, (1, 8, 8), LaplaceNoise(5.0))
    codes = target.encode(images)
    heard = target.transmit(codes)
    sides = images, codes, images, heard
    wire = Wire(*sides, images, torch.zeros(60).long(), heard, 1, target, clear=codes)
    usual = images.mean(0, keepdim=True).expand(60, -1, -1, -1)
    found, said = promises.bounds(wire, {"told": images, "mean": usual})
    assert found is None and said.startswith("told: an attacker with")
    found, said = promises.bounds(wire, {"mean": usual})
    assert found is not None and found["mse"] > 0 and not said
    # Whoever was scored on the first victims alone is held against a bound of these.
    found, said = promises.bounds(wire, {"few": images[:30], "mean": usual})
    assert found is None and said.startswith("few: an attacker with")
    found, said = promises.bounds(wire, {"few": usual[:30], "mean": usual})
    assert found is not None and found["n"] == 60 and not said


def test_who_holds_the_pictures_names_everybody_with_a_code_of_his_own() -> None:
    """Whatever was done to the pictures; with noise as many as the best attacker; nobody knows of one that wavers."""
    images = digits(60)[0]
    images[1] = images[0]

    def found(client: Callable[[Tensor], Tensor], mechanism: Any = None, **more: Any) -> Any:
        target = Target.of_client(client, (1, 8, 8), mechanism)
        codes = target.encode(images)
        heard = target.transmit(codes)
        labels = torch.zeros(60).long()
        wire = Wire(images, codes, images, heard, images, labels, heard, 1, target, **more)
        return promises.matched(wire, {"named": 0.5, "n": 20} if mechanism else None)

    mixed = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    named = found(lambda sent: 1e-3 * (sent.flatten(1) @ mixed).tanh())
    assert named["value"] == pytest.approx(58 / 60) and named["candidates"] == 60
    assert named["low"] < 58 / 60 < named["high"]
    assert found(lambda sent: 3 + 0 * sent.flatten(1))["value"] == 0
    assert found(lambda sent: 1 + 1e-9 * sent.flatten(1).double())["value"] == 0  # rounding
    assert found(lambda sent: sent.flatten(1), wavers=True) is None
    assert found(lambda sent: sent.flatten(1), LaplaceNoise(1.0))["value"] == 0.5
    pairs = torch.zeros(60, 2)
    wire = Wire(images, pairs, images, pairs[None], images, torch.zeros(60).long(), pairs[None])
    assert promises.matched(wire, None) is None


def test_where_nothing_limits_the_values_only_a_clip_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch)
    cut = only(audit(models.layers, digits(), cuts=["5"], noise_scale=2.0))
    assert "no guarantee" in cut["guarantees"]["words"] and cut["guarantees"]["epsilon"] is None
    assert cut["guarantees"]["with_clip"]["naming"] < 1
    assert "before the noise" in cut["guarantees"]["with_clip"]["words"]


@pytest.mark.parametrize(
    ("make", "cuts"),
    [
        (models.residual, ["stage", "pool"]),
        (models.awkward, ["stage", "pool"]),
        (models.tied, ["first"]),
        (models.functional, ["all"]),
    ],
)
def test_models_that_people_bring(
    make: Callable[[], nn.Module], cuts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(monkeypatch)
    result = audit(make, digits(), cuts=cuts)
    assert all(a["status"] == "ok" for cut in result.cuts for a in cut["attacks"])
    refused = {each["name"] for each in result.model["no_cuts"]}
    assert make not in (models.residual, models.awkward) or "stage.0.conv" in refused


def test_dropout_left_on_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch)
    cut = only(audit(models.restless, digits()))
    assert any("answers to the same images differ" in flag["raised"] for flag in cut["flags"])


@pytest.mark.parametrize("count", [6, 10])
def test_a_few_pictures_of_one_class_have_no_verdict(count: int) -> None:
    images = digits()[0][:count]
    result = audit(models.layers, (images, [0] * count), cuts=["7"])
    cut = only(result)
    assert cut["verdict"]["level"] == "unknown" and "too few" in cut["verdict"]["sentence"]
    assert result.recommended is None
    assert all(each["status"] in ("ok", "failed") for each in cut["attacks"])
    assert any(each["status"] == "ok" for each in cut["attacks"])


def test_a_cut_with_room_for_fewer_victims_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "room", lambda values, queries=1: 40 if values > 60 else 60)
    first, last = audit(models.layers, digits(), cuts=["5", "7"]).cuts
    assert first["values"] > 60 >= last["values"]
    said = "40 of 60 victims are attacked here"
    assert [any(each.startswith(said) for each in cut["notes"]) for cut in (first, last)] == [
        True,
        False,
    ]


def test_several_seeds_give_an_interval_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch)
    cut = only(audit(models.layers, digits(), cuts=["7"], seeds=[3, 4, 5], noise_scale=0.5))
    ridge = cut["attacks"][0]
    assert ridge["measures"]["MSE"]["over"] == "victims and seeds"
    assert cut["strongest"]["MSE"]["over"] == "victims and seeds"
    assert ridge["measures"]["MSE"]["value"] == pytest.approx(
        cut["strongest"]["MSE"]["value"], rel=0.2
    )


@pytest.mark.parametrize(
    ("smashed", "said"),
    [
        (np.ones((20, 0), np.float32), r"smashed of shape \(20, 0\)"),
        (np.full((20, 3), 1e300), "no finite numbers in float32"),
        (np.full((20, 3), "x"), "no array of numbers"),
        (np.ones((19, 3), np.float32), r"20 images, and smashed of shape \(19, 3\)"),
    ],
)
def test_pairs_that_are_none_are_one_line(tmp_path: Path, smashed: Any, said: str) -> None:
    path = tmp_path / "pairs.npz"
    np.savez(path, images=np.zeros((20, 8, 8), np.uint8), smashed=smashed)
    with pytest.raises(UsageError, match=said):
        audit(smashed=str(path))


def test_a_folder_in_the_place_of_the_result_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "audit.json").mkdir()
    with pytest.raises(UsageError, match="audit.json is a folder; take it away"):
        audit(models.layers, digits(), out=tmp_path)


def limited() -> nn.Sequential:
    """Values are at most 2 behind the first layer, and 1 behind the fourth."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Hardtanh(-2, 2), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)
    )


def test_before_an_audit_of_something_else_is_replaced_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed(monkeypatch)
    limits = {"cuts": "0,3", "quantise_bits": 4}
    first, *others = (
        ((models.layers, digits(), {"cuts": "7"}), "same"),
        ((models.layers, digits(), {"cuts": "6,7"}), "same"),
        ((models.layers, digits(), {"cuts": "7"}), "other cuts"),
        ((models.layers, digits(), {"cuts": "7", "gaussian_std": 0.5}), "another wire"),
        ((models.layers, digits(140), {"cuts": "7"}), "other pictures and another wire"),
        ((models.identity, digits(140), {"seeds": (1,)}), "another model and other cuts"),
        ((models.identity, digits(140), {"queries": 2}), "another wire"),
        # What is done depends on what limits the values at the cut.
        ((limited, digits(140), limits), "another model and another wire"),
        ((limited, digits(140), limits), "same"),
    )
    (model, data, options), _ = first
    audit(model, data, out=tmp_path, **options)
    assert "replaced" not in capsys.readouterr().err
    for (model, data, options), what in others:
        audit(model, data, out=tmp_path, **options)
        said = capsys.readouterr().err
        found = f"audit.json is of {what} (" in said and "name another --out to keep it" in said
        assert found or what == "same" and "replaced" not in said
    (tmp_path / "audit.json").write_text("\xff", "latin-1")
    audit(models.identity, digits(), out=tmp_path)
    assert "replaced" not in capsys.readouterr().err


def test_pairs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits()
    model = models.layers().eval()
    with torch.no_grad():
        smashed = model[:8](images)
    path = tmp_path / "pairs.npz"
    np.savez(path, images=images, labels=labels, smashed=smashed)
    cut = only(audit(smashed=str(path)))
    with_model = only(audit(models.layers, (images, labels), cuts=["7"]))
    got = {each["attack"]: each for each in cut["attacks"]}
    assert (
        got["inversion"]["status"] == "skipped" and "asks the client" in got["inversion"]["reason"]
    )
    wanted = {each["attack"]: each for each in with_model["attacks"]}
    for key in ("ridge", "nearest"):
        value = got[key]["measures"]["MSE"]["value"]
        assert value == pytest.approx(wanted[key]["measures"]["MSE"]["value"], rel=1e-3)
    assert got["decoder"]["status"] == "ok" and cut["accuracy"] is None
    for more, said in (
        ({"queries": 4}, "--queries"),
        ({"surrogate": images, "weights": "net.pt"}, "--weights, --surrogate"),
        ({"size": 8}, "--size"),
        ({"cuts": ["7"]}, "--cuts"),
        ({"noise_scale": 1.0}, "--noise_scale"),
        ({"model": models.layers}, "--model"),
    ):
        with pytest.raises(UsageError, match=f"has no use for {said}; leave out"):
            audit(smashed=str(path), **more)
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 1e-3, (RIDGE, INVERSION)))
    twice = audit(smashed=str(path), seeds=[0, 1])
    row = only(twice)["attacks"][1]
    assert row["cause"] == "inapplicable" and row["reason"].startswith("does not apply")
    assert gate(twice) == []
    np.savez(path, images=images, smashed=smashed[:-1])
    with pytest.raises(UsageError, match="has 150 images, and smashed of shape"):
        audit(smashed=str(path))
    np.savez(path, images=images)
    with pytest.raises(UsageError, match="has no array 'smashed'"):
        audit(smashed=str(path))


def test_a_checkpoint_of_ours_with_its_own_noise(
    classifier_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(monkeypatch)
    for module in (promises, bounds):
        monkeypatch.setattr(module, "PICTURES", 1)
    path = classifier_file(tmp_path, noise_scale=0.5)
    result = audit(str(path), "digits")
    assert result.settings["defences"] == ["Laplace(scale=0.5)"]
    assert only(result)["guarantees"]["epsilon"] == pytest.approx(2000)
    with pytest.raises(UsageError, match="trained with a defence on its wire"):
        audit(str(path), "digits", gaussian_std=1.0)
    with pytest.raises(UsageError, match=r"takes images of shape \(1, 28, 28\)"):
        audit(str(path), digits())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"nopeek_weight": 0.5}, "acts in training"),
        ({"queries": 0}, "queries is 0"),
        ({"seeds": [1, 1]}, "seeds are"),
        ({"seeds": [2**64]}, "seeds are"),
        ({"budget": "huge"}, "unknown budget 'huge'"),
        ({"cuts": ["8"]}, "8 is no cut: it is the whole model"),
        ({"cuts": ["nine"]}, "no cut 'nine'"),
        ({"data": None}, "name both --model and --data"),
        ({"noise_scal": 1.0}, "there is no setting noise_scal.*did you mean noise_scale"),
        ({"seed": 3, "max_epochs": 2}, "there is no setting seed of an audit"),
        ({"network": "lenet5"}, "there is no setting network of an audit"),
    ],
)
def test_what_makes_no_sense_is_one_line(more: dict[str, Any], said: str) -> None:
    given = {"model": models.layers, "data": digits(), **more}
    with pytest.raises(UsageError, match=said):
        audit(**given)


def test_the_command(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(monkeypatch)
    images, labels = digits()
    np.savez("digits.npz", images=images, labels=labels)
    words = ["audit", "--model", f"{FILE}:layers", "--data", "digits.npz", "--cuts", "7"]
    words += ["--noise", "0.5", "--noise-kind", "gaussian", "--out", "found"]
    assert main(words) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    content = json.loads(Path(path).read_text())
    assert path == "found/audit.json" and content["settings"]["defences"] == ["Gaussian(std=0.5)"]
    assert content["reproduce"] == content["made"]["command"]
    assert (
        content["reproduce"].startswith("dpsnn audit --model ")
        and "--noise 0.5" in content["reproduce"]
    )
    for wrong, said in (
        (["--out", "digits.npz/more"], "digits.npz is a file; name a folder with --out"),
        (["--noise_kind", "pink"], "unknown noise_kind 'pink'"),
        (["--gaussian_std", "1"], "--noise and --gaussian_std say the same"),
        (["--data", "nowhere"], "there is no data nowhere in "),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err


def test_an_audit_passes_a_gate_or_not(
    monkeypatch: pytest.MonkeyPatch, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed(monkeypatch)
    images, labels = digits()
    np.savez("digits.npz", images=images.numpy(), labels=labels.numpy())
    words = ["audit", "--model", f"{FILE}:identity", "--data", "digits.npz", "--out", "found"]
    for wrong, said in (
        (["--fail_above", "blur=1"], "there is no column 'blur'"),
        (["--fail_above", "mse=1"], "use --fail_below"),
        (["--baseline", "nowhere.json"], "there is no nowhere.json"),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err and not Path("found").exists()
    assert main([*words, "--fail_below", "mse=0.02", "--junit", "junit.xml"]) == 3
    heard = capsys.readouterr()
    assert heard.out == "found/audit.json\n" and Path("junit.xml").exists()
    assert heard.err.splitlines()[-1].startswith("dpsnn: the gate failed: 1 of ")
    # It is there already, and beside itself nothing has got worse.
    assert main([*words, "--fail_below", "mse=0", "--baseline", "found/audit.json"]) == 0


def test_the_package_is_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    closed(monkeypatch)
    result = dpsnn.audit(models.identity(), digits())
    assert isinstance(result, AuditResult) and sys.modules["dpsnn.audit"] is dpsnn.audit
