"""What an audit pays for and what it can make: nothing is left out without a row, and nothing without being missed."""

from collections.abc import Sequence
from typing import Any

import audit_models as models
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dpsnn.audit import plan
from dpsnn.audit.cuts import Cuts
from dpsnn.audit.gate import gate
from dpsnn.audit.plan import NEAREST, RIDGE, Budget, Planned
from dpsnn.audit.progress import Progress
from dpsnn.audit.result import AuditResult
from dpsnn.audit.run import audit

DECODER = Planned("decoder", "learned decoder", {"max_epochs": 2, "augment": "none"}, asks=False)


def digits(count: int = 150) -> tuple[Tensor, Tensor]:
    """Real digits of 8×8 pixels, as floats."""
    found = load_digits()
    images = torch.from_numpy(found.images[:count] / 16).float().unsqueeze(1)
    return images, torch.from_numpy(found.target[:count])


def only(result: AuditResult) -> dict[str, Any]:
    (cut,) = result.cuts
    return cut


def test_descents_are_as_long_as_the_budget_pays_for(monkeypatch: pytest.MonkeyPatch) -> None:
    descent = Planned("inversion", "inversion", {"steps": 300, "restarts": 1}, True, own=5)
    for seconds, status in ((1e-9, "skipped"), (1e-3, "ok")):
        monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, seconds, (RIDGE, descent)))
        result = audit(models.layers, digits(), cuts=["7"])
        row = only(result)["attacks"][1]
        assert (row["status"], row["cause"]) == (status, "unpaid" if status == "skipped" else None)
        told = [each.said for each in gate(result)]
        why = "the client's gradients cost more than this budget pays for; --budget standard pays for them"
        assert told == ([f"inversion skipped ({why})"] if status == "skipped" else [])
    assert 20 <= row["settings"]["steps"] < 300
    for name in ("standard", "thorough"):
        monkeypatch.delitem(plan.BUDGETS, name)
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 1e-9, (RIDGE, descent)))
    row = only(audit(models.layers, digits(), cuts=["7"]))["attacks"][1]
    assert row["cause"] == "too large" and "any budget" in row["reason"]


def test_as_many_victims_as_are_paid_for_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3 starts of 2 steps for each of 40 victims, of 3 times the client's work a step."""
    model = models.layers().eval()
    work = Cuts(model, (1, 8, 8)).chosen(["7"])[0].work
    assert work
    seconds = 40.5 * 2 * 3 * 3 * work / plan.SPEED
    descent = Planned("inversion", "inversion", {"steps": 2, "restarts": 3}, True, own=6)
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, seconds, (RIDGE, descent)))
    cut = only(audit(model, digits(), cuts=["7"]))
    assert [row["victims"] for row in cut["attacks"]] == [60, 40]
    assert "inversion was scored on 40 of 60 victims" in cut["notes"]


def enlarged(count: int) -> tuple[Tensor, Tensor]:
    images, labels = digits(count)
    return nn.functional.interpolate(images, (16, 16), mode="bilinear"), labels


def flat() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))


class Beside(nn.Module):
    """A client that sends the picture beside values that say nothing and are large."""

    def __init__(self) -> None:
        super().__init__()
        self.fl, self.up = nn.Flatten(), nn.Linear(512, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.up(self.fl(torch.cat([images, 1000 * torch.sin(1e4 * images)], 1)))


def test_of_long_vectors_a_map_to_smaller_pictures_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that sends the picture, 16×16, where no map to more than 8×8 fits."""
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 0.0, (RIDGE, NEAREST, DECODER)))
    monkeypatch.setattr(plan, "MOST_WEIGHTS", 256 * 64)
    result = audit(flat, enlarged(150), cuts=["0"])
    cut = only(result)
    ridge, _, decoder = cut["attacks"]
    assert ridge["status"] == "ok" and ridge["settings"]["pixels"] == "8×8"
    assert any("linear map (ridge) rebuilds pictures of 8×8 pixels" in n for n in cut["notes"])
    assert (decoder["status"], decoder["cause"]) == ("skipped", "too large")
    assert cut["verdict"]["level"] == "leaks" and cut["strongest"]["MSE"]["by"] == [ridge["label"]]
    # One learnt: that the other is too large for any machine does not shut the gate.
    assert gate(result) == []


def test_where_nothing_learnt_it_is_not_said_that_nothing_leaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of the picture is sent, among so much else that the nearest one is any: a linear map would find it."""
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 0.0, (RIDGE, NEAREST, DECODER)))
    monkeypatch.setattr(plan, "MOST_WEIGHTS", 1000)
    noise = torch.rand(150, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    result = audit(Beside, (noise, torch.arange(150) % 10), cuts=["fl"])
    cut = only(result)
    assert [row["cause"] for row in cut["attacks"]] == ["too large", None, "too large"]
    assert cut["verdict"]["level"] == "unknown" and "is too large" in cut["verdict"]["sentence"]
    assert result.recommended is None
    (found,) = gate(result)
    assert "weights" in found.said


@pytest.mark.parametrize("grey", [0.0, 0.1, 0.3, 1.0])
def test_pictures_that_are_all_alike_have_no_verdict(
    grey: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 0.0, (RIDGE, NEAREST)))
    images = torch.full((100, 1, 8, 8), grey)
    cut = only(audit(models.layers, (images, torch.arange(100) % 10), cuts=["7"]))
    assert cut["verdict"]["level"] == "unknown" and "all alike" in cut["verdict"]["sentence"]


class Wide(nn.Module):
    """For pictures of 96×80."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 5, stride=2), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


def test_large_pictures_are_attacked_at_a_lower_resolution(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = (RIDGE, DECODER, Planned("refiner", "refined"))
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 0.0, attacks))
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(10, 3, 6, 5, generator=generator)
    images = nn.functional.interpolate(small, (96, 80), mode="bilinear")
    result = audit(Wide, ((255 * images).byte(), torch.arange(10) % 2), cuts=["conv+relu"])
    cut = only(result)
    assert result.model["image_shape"] == [3, 96, 80]
    assert result.model["attacked_shape"] == [3, 64, 53] and cut["shape"] == [4, 46, 38]
    ridge, decoder, refiner = cut["attacks"]
    assert ridge["status"] == "skipped" and "weights" in ridge["reason"]
    assert (refiner["status"], refiner["cause"]) == ("skipped", "inapplicable")
    assert "lower resolution" in refiner["reason"] and gate(result) == []
    assert decoder["status"] == "ok" and decoder["settings"]["decoder"] == "grid"
    assert any("attacked at 64×53 pixels" in note for note in cut["notes"])


def test_a_short_descent_is_made_on_credit_rather_than_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What costs a few times its share is tuned on fewer own pictures, and takes as few steps as find anything."""
    model = models.layers().eval()
    work = Cuts(model, (1, 8, 8)).chosen(["7"])[0].work
    assert work
    descent = Planned("inversion", "inversion", {"steps": 60, "restarts": 1}, True, own=5)
    least = 20 * (30 + 12) * 3 * work / plan.SPEED  # steps, victims and one own picture
    rows = []
    for share in (1.01, 0.1, 0.9 / plan.OVER):
        monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, share * least, (RIDGE, descent)))
        cut = only(audit(model, digits(), cuts=["7"]))
        rows.append((cut["attacks"][1]["status"], cut["attacks"][1]["victims"]))
        short = "inversion took 20 of 60 steps, tuned on 1 of 4 own pictures, as many as are paid"
        assert any(short in note for note in cut["notes"]) is (rows[-1][0] == "ok")
    assert rows == [("ok", 42), ("ok", 30), ("skipped", 0)]


RIDGE_DECODER_INVERSION = {"ridge": (0.1, 4), "decoder": (0.5, 20), "inversion": (0.4, 16)}
"""Attack → its share of the time of a cut, and the seconds that it takes."""


class Told:
    """What is said before each attack of an audit whose clock is our own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.now, self.read = 0.0, capsys.readouterr
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def __call__(self, cuts: dict[str, float], kept: Sequence[str] = ()) -> list[str]:
        """The lines about cuts that take so many times what attacks take; some are kept: `a ridge`."""
        attacks = {
            key: Planned(key, key, share=s) for key, (s, _) in RIDGE_DECODER_INVERSION.items()
        }
        progress, said = Progress(len(cuts)), []
        for cut, times in cuts.items():
            progress.at(cut, [*attacks.values()], 1)
            for key, planned in attacks.items():
                progress(planned, 0)
                said.append(self.read().err.strip())
                if f"{cut} {key}" in kept:
                    progress.found(planned)
                else:
                    self.now += times * RIDGE_DECODER_INVERSION[key][1]
        return said


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(monkeypatch, capsys)


def test_the_time_that_is_left_follows_from_shares_and_then_from_whole_cuts(told: Told) -> None:
    assert told({"a": 1, "b": 1}) == [
        "audit: a: ridge, seed 0",  # nothing is known
        "audit: a: decoder, seed 0",  # nor by a tenth
        "audit: a: inversion, seed 0, about 56 s left",  # 24 s were 0.6 of a cut
        "audit: b: ridge, seed 0, about 40 s left",  # as the first
        "audit: b: decoder, seed 0, about 36 s left",
        "audit: b: inversion, seed 0, about 16 s left",
    ]


def test_cuts_to_come_take_what_those_before_took_on_average(told: Told) -> None:
    """The second costs half as much as the first: it says itself how long it takes, and of the third both speak."""
    said = [line.partition("seed 0")[2] for line in told({"a": 1, "b": 0.5, "c": 0.5})]
    assert said[3:] == [
        ", about 80 s left",  # two like the first
        ", about 78 s left",
        ", about 38 s left",  # 8 s here, and 30 there
        ", about 30 s left",
        ", about 28 s left",
        ", about 8 s left",
    ]


def test_what_was_kept_of_an_earlier_call_does_not_say_how_long_the_rest_takes(told: Told) -> None:
    kept = ["a ridge", "a decoder", "a inversion", "b ridge", "b decoder"]
    said = [line.partition("seed 0")[2] for line in told(dict.fromkeys("abcd", 1), kept)]
    assert said[:6] == [""] * 6, "all of it was there"
    # 16 s were 0.4 of a cut.
    assert said[6:9] == [", about 80 s left", ", about 76 s left", ", about 56 s left"]
    assert said[9:] == [", about 40 s left", ", about 36 s left", ", about 16 s left"]


def test_no_time_is_left_for_what_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(Progress, "at", lambda self, where, attacks, seeds: told.append(attacks))
    descent = Planned("inversion", "inversion", {"steps": 60, "restarts": 1}, True, own=5)
    monkeypatch.setitem(plan.BUDGETS, "quick", Budget(120, 60, 1e-9, (RIDGE, descent)))
    cut = only(audit(models.layers, digits(), cuts=["7"]))
    assert cut["attacks"][1]["status"] == "skipped" and told == [[RIDGE]]
