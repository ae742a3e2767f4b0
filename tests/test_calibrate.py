"""The noise that keeps a promise, what it costs, and the one decoder for all noises of a curve."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import audit_example
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

import dpsnn
from dpsnn.attacks import Knowledge
from dpsnn.attacks.base import AttackModule, Learn
from dpsnn.attacks.decoder import LearnedDecoder
from dpsnn.audit import attacking
from dpsnn.audit import calibrate as searching
from dpsnn.audit import calibrate_beside as beside
from dpsnn.audit import calibrate_run, calibrate_server, plan
from dpsnn.audit.calibrate import calibrate, training
from dpsnn.audit.calibrate_curve import Curve, Failed, Heard, Roles, falling, grid, remembering
from dpsnn.audit.calibrate_decoder import Check, ConditionedDecoder, checked_places, own_error
from dpsnn.audit.calibrate_kept import _for_sure, checked
from dpsnn.audit.calibrate_noise import (
    KINDS,
    Goal,
    NoisyWire,
    noise_for_error,
    noise_for_naming,
    optimum_errors,
)
from dpsnn.audit.calibrate_result import Calibration, Settings
from dpsnn.audit.calibrate_run import calibrate_model
from dpsnn.audit.calibrate_server import accuracy, finetuned
from dpsnn.audit.plan import Planned
from dpsnn.audit.result import AuditResult
from dpsnn.cli import main
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.errors import UsageError
from dpsnn.metrics.ceiling import gaussian_shift
from dpsnn.networks.conditioned import conditioned, evenly
from dpsnn.networks.decoder import DECODERS
from dpsnn.parts import find
from dpsnn.target import Target
from dpsnn.training import Fitted

RAW = load_digits()
ORDER = torch.randperm(len(RAW.target), generator=torch.Generator().manual_seed(0))
PIXELS = (torch.from_numpy(RAW.images)[ORDER].unsqueeze(1) / 16 * 255).round().to(torch.uint8)
LABELS = torch.from_numpy(RAW.target).long()[ORDER]
PICTURES = Roles(
    PIXELS[:300], PIXELS[300:500].float() / 255, own_labels=LABELS[:300], labels=LABELS[300:500]
)


FEWER = Roles(PIXELS[:60], PICTURES.victims[:64], LABELS[:60], LABELS[300:364])
BRIEF = LearnedDecoder(max_epochs=1, learning_rate=1e-3, augment="none")


def target(server: bool = True) -> Target:
    """A linear client, and the server that least squares gives."""
    torch.manual_seed(0)
    client = nn.Sequential(nn.Flatten(), nn.Linear(64, 24))
    with torch.no_grad():
        codes = client(PICTURES.own.float() / 255)
        answers = nn.functional.one_hot(LABELS[:300], 10).float()
        known = torch.cat([codes, torch.ones(300, 1)], 1)
        found = torch.linalg.lstsq(known, answers).solution
        head = nn.Linear(24, 10)
        head.weight.copy_(found[:-1].T)
        head.bias.copy_(found[-1])
    return Target.of_client(client, (1, 8, 8), server=head if server else None, name="digits")


def untaught(module: Any, *, monitor: str, mode: str, max_epochs: int, trial: str = "") -> Fitted:
    """A training that leaves all as it is."""
    module.eval()
    return Fitted(0, 0.1, 0.0, "32-true")


def refusing(*given: Any, **options: Any) -> Fitted:
    raise KeyboardInterrupt("something is trained")  # an error would be that of an attacker


# ---------------------------------------------------------------- promises


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("naming=0.05@1000", Goal("naming", 0.05, 1000)),
        (" MSE=.05", Goal("mse", 0.05)),
        ("ssim=0.3", Goal("ssim", 0.3)),
        ("mse=1e-3", Goal("mse", 0.001)),
    ],
)
def test_a_promise_is_read(text: str, goal: Goal) -> None:
    assert Goal.parse(text) == goal and f"{100 * goal.value:g}"[:1] in goal.words + "0.001"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("naming=0.05", "must be naming=SHARE@AMONG"),
        ("mse=0.1@5", "must be naming=SHARE@AMONG"),
        ("psnr=20", "must be naming=SHARE@AMONG"),
        ("mse=1.2.3", "must be naming=SHARE@AMONG"),
        ("naming=0.1@5", "above 0.2, which guessing gives"),
        ("naming=1.5@5", "below 1"),
        ("ssim=0", "between 0 and 1"),
        (f"naming=0.05@1{'0' * 400}", "among 1e300 at most"),
    ],
)
def test_what_cannot_be_promised_is_refused(text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        Goal.parse(text)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("queries", [1, 3])
def test_the_noise_for_a_naming_bound(kind: str, queries: int) -> None:
    wire, goal = NoisyWire(target(), kind, 2.0, queries), Goal("naming", 0.1, 200)
    codes = wire.target.encode(PICTURES.victims)
    noise = noise_for_naming(wire, goal, codes)
    assert wire.named(200)(noise) <= 0.1 < wire.named(200)(0.995 * noise)
    if kind == "gaussian":
        assert noise == pytest.approx(math.sqrt(queries) * 2 / gaussian_shift(0.1, 200), rel=2e-3)
    # Nobody who knows all 200 and their codes names more.
    _, right = optimum_errors(wire, noise, codes, PICTURES.victims, 3)
    assert right.mean() <= 0.1


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("queries", [1, 4])
def test_what_is_deployed_keeps_its_promise_on_fresh_victims(kind: str, queries: int) -> None:
    """The line that is printed, deployed by hand: a clip and noise, heard by who has the codes of all fresh victims."""
    whole, among = target(), 100
    codes = whole.encode(PICTURES.victims)
    clip = 0.8 * float(KINDS[kind].usual(codes).median())
    wire = NoisyWire(whole, kind, clip, queries)
    goal = Goal("naming", 0.1, among)
    noise = float(f"{noise_for_naming(wire, goal, codes[:100]):g}")
    fresh = codes[100:].double()
    norms = fresh.norm(dim=1, keepdim=True)
    sent = fresh.clamp(-clip, clip) if kind == "laplace" else fresh * (clip / norms).clamp(max=1)
    assert (sent != fresh).any(1).double().mean() > 0.5, "most are clipped"
    torch.manual_seed(0)
    draws = {"gaussian": Normal(0.0, noise), "laplace": Laplace(0.0, noise)}[kind]
    named = []
    for _ in range(20):
        heard = sent + draws.sample((queries, *sent.shape)).double()
        unexplained = -draws.log_prob(heard.unsqueeze(2) - sent).sum((0, 3))
        named.append(float((unexplained.argmin(1) == torch.arange(among)).double().mean()))
    assert 1.2 / among < mean(named) <= 0.1
    # The same by the package, of what the package deploys.
    _, right = optimum_errors(wire, noise, codes[100:], PICTURES.victims[100:], 3)
    assert abs(float(right.mean()) - mean(named)) < 4 * math.sqrt(0.1 * 0.9 / among)
    off = (wire.at(noise).transmit(codes[100:], 200).double().mean(0) - sent).square().mean()
    assert float(off) == pytest.approx(float(draws.variance) / 200, rel=0.1)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
@pytest.mark.parametrize("clip", [None, 2.0])
def test_noise_is_drawn_as_where_it_is_deployed(kind: str, clip: float | None) -> None:
    """In double precision: of what is sent, the draw of single precision is one of few numbers."""
    wire = NoisyWire(target(), kind, clip)
    nothing = torch.zeros(1000, 24)
    torch.manual_seed(0)
    (sent,) = wire.at(1.0).transmit(nothing)
    torch.manual_seed(0)
    drawn = KINDS[kind].plain(1.0).eval()(nothing)
    assert torch.equal(sent.cpu(), drawn)


@pytest.mark.parametrize(("kind", "what"), [("gaussian", "L2 norm"), ("laplace", "every value")])
def test_without_a_bound_a_clip_is_asked_for(kind: str, what: str) -> None:
    wire = NoisyWire(target(), kind)
    assert not wire.bounded
    with pytest.raises(UsageError, match=f"name a --clip of the .*{what}.* are below"):
        noise_for_naming(wire, Goal("naming", 0.1, 200), wire.target.encode(PICTURES.victims))


def test_what_is_noisy_already_is_refused() -> None:
    noisy = Target.of_client(nn.Flatten(), (1, 8, 8), LaplaceNoise(1.0))
    with pytest.raises(UsageError, match="on the wire already"):
        NoisyWire(noisy, "gaussian")
    with pytest.raises(UsageError, match="kind of noise"):
        NoisyWire(target(), "uniform")


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_the_noise_for_an_error_keeps_it_for_other_victims_as_well(kind: str) -> None:
    wire = NoisyWire(target(), kind)
    codes, images, goal = wire.target.encode(PICTURES.victims), PICTURES.victims, Goal("mse", 0.03)
    noise = noise_for_error(wire, goal, codes[:100], images[:100], 0)
    found, _ = optimum_errors(wire, noise, codes[100:], images[100:], 1)
    assert 0.03 <= found.mean() < 0.05, "with a margin, and not by far"
    less, _ = optimum_errors(wire, noise / 2, codes[100:], images[100:], 1)
    assert less.mean() < found.mean()


def test_no_noise_makes_guesses_worse_than_the_mean_image() -> None:
    wire = NoisyWire(target(), "gaussian")
    with pytest.raises(UsageError, match="no noise makes the best guess of 200 images worse"):
        noise_for_error(
            wire, Goal("mse", 0.2), wire.target.encode(PICTURES.victims), PICTURES.victims, 0
        )


# ---------------------------------------------------------------- what it costs


def test_accuracy_falls_with_noise_and_a_short_training_brings_some_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrate_server, "RATE", 0.02)
    wire = NoisyWire(target(), "gaussian")
    codes = wire.target.encode(PICTURES.victims)
    assert PICTURES.labels is not None and PICTURES.own_labels is not None
    found = [accuracy(wire.at(n), codes, PICTURES.labels, 1, 0) for n in (0.0, 0.3, 1.0, 10.0)]
    values = [each["value"] for each in found]
    assert values == sorted(values, reverse=True) and values[0] > 80 > 30 > values[-1]
    assert all(each["low"] < each["value"] < each["high"] for each in found)  # type: ignore
    noisy, own = wire.at(0.3), wire.target.encode(PICTURES.own.float() / 255)
    blind = nn.Linear(24, 10)
    trained = finetuned(blind, noisy, own, PICTURES.own_labels, 1, 4, training(0), 0)
    assert not any(p.requires_grad for p in trained.parameters()) and not trained.training
    again = accuracy(Target(**{**vars(noisy), "server": trained}), codes, PICTURES.labels, 1, 0)
    before = accuracy(Target(**{**vars(noisy), "server": blind}), codes, PICTURES.labels, 1, 0)
    assert again["value"] > before["value"] + 20  # type: ignore[operator]


def test_a_function_has_no_weights_to_train() -> None:
    with pytest.raises(UsageError, match="leave --finetune_epochs out"):
        finetuned(lambda z: z, target(), torch.zeros(4, 24), LABELS[:4], 1, 1, refusing, 0)


def test_more_noise_never_looks_better() -> None:
    values = [{"value": v} for v in (90.0, 70.0, 75.0, 60.0)] + [None]
    assert [each and each["value"] for each in falling(values)] == [90.0, 75.0, 75.0, 60.0, None]
    assert [each and each["value"] for each in falling(values[:4], "lower")] == [60.0] * 4


# ---------------------------------------------------------------- one decoder for all noises

NOISES = (0.05, 0.5, 5.0)


def knowledges(queries: int = 1) -> list[Knowledge]:
    wire, part = NoisyWire(target(), "gaussian", None, queries), LearnedDecoder()
    return [wire.at(noise).knowledge(PICTURES.own, part.needs) for noise in NOISES]


def everywhere(queries: int = 1) -> ConditionedDecoder:
    torch.manual_seed(0)
    made = ConditionedDecoder(
        knowledges(queries), queries=queries, learning_rate=3e-3, augment="none"
    )
    made.prepare(untaught)
    return made


def test_a_noise_is_told_by_its_spread() -> None:
    made = everywhere()
    assert made.told.tolist() == pytest.approx([-1, 0, 1], abs=0.05)
    assert evenly(torch.tensor([0.0, 1.0, math.e])).tolist() == pytest.approx([-1, 0, 1])
    assert evenly(torch.tensor([2.0, 2.0])).tolist() == [0, 0]
    assert evenly(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("queries", [1, 3])
def test_every_row_has_a_noise_of_its_own_that_all_its_transmissions_share(queries: int) -> None:
    made = everywhere(queries)
    clean = made.knowledges[0].activations
    for training_now in (True, False):
        made.train(training_now)
        sent = torch.stack(list(made._sent(clean)))
        places = sent[0, :, -1].long()
        assert sent.shape == (queries, 300, 25) and (sent[..., -1] == sent[0, :, -1]).all()
        assert {*places.tolist()} == {0, 1, 2}
        for place, noise in enumerate(NOISES):
            off = sent[:, places == place, :-1] - clean[places == place]
            assert float(off.std()) == pytest.approx(noise, rel=0.1)
    assert places.tolist() == [row % 3 for row in range(300)], "the same ones in validation"


def test_the_decoder_sees_each_noise_through_its_own_front() -> None:
    made = everywhere()
    heard = made.knowledges[1].defend(made.knowledges[1].activations[:7])
    rows = torch.cat([heard, torch.ones(7, 1)], 1)
    seen = made._seen([rows])
    front = made.fronts[1]
    assert torch.allclose(seen[:, :-1], front([heard])) and (seen[:, -1] == made.told[1]).all()
    guess = made.at(1).infer(heard.unsqueeze(0))
    assert guess.shape == (7, 1, 8, 8) and torch.equal(guess, made.infer(rows.unsqueeze(0)))


def test_told_nothing_has_happened_yet_it_is_the_decoder_that_it_is_made_of() -> None:
    made = everywhere()
    seen = torch.randn(5, 25)
    layers = made.decoder.layers[0].layers
    assert torch.allclose(made.decoder.layers(seen), layers(seen[:, :-1]))


@pytest.mark.parametrize("name", ["conv", "linear", "deconv", "grid"])
def test_every_decoder_can_be_told(name: str) -> None:
    shape = (3, 6, 6)
    torch.manual_seed(0)
    made = conditioned(DECODERS[name](shape, (1, 8, 8)), shape)
    seen = torch.randn(4, 109)
    assert made(seen).shape == (4, 1, 8, 8)
    made.loss(seen, torch.rand(4, 1, 8, 8)).backward()
    films = made.layers[0].films
    if name != "deconv":  # which has neither a dense layer nor normalisation
        assert films and all(film.layers[-1].weight.grad.any() for film in films.values())


@pytest.mark.parametrize(
    ("passed", "places"),
    [
        ((True, True, True), [0, 1, 2, 3, 4, 5, 6]),
        ((False, True, True), [3, 4, 5, 6]),
        ((True, False, True), [0, 6]),
        ((False, False, False), []),
    ],
)
def test_where_it_is_no_good_dedicated_ones_take_its_place(
    passed: tuple[bool, ...], places: list[int]
) -> None:
    assert checked_places(7) == [0, 3, 6] and checked_places(2) == [0, 1]
    curve = Curve(NoisyWire(target(), "gaussian"), grid(1.0, 3, 2), PICTURES, untaught)
    curve.checks = [
        Check(place, 1.0 if fine else 1.1, 1.0) for place, fine in zip((0, 3, 6), passed)
    ]
    assert curve.conditioned_places() == places


class Endless(AttackModule):
    """Whose guesses are no pictures."""

    def infer(self, heard: Tensor) -> Tensor:
        return torch.full((heard.shape[1], 1, 8, 8), torch.nan)


def test_an_attacker_that_fails_is_a_row_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*given: Any) -> AttackModule:
        raise ArithmeticError("too thin")

    monkeypatch.setattr(find("attack", "ridge"), "build", build)
    few = Roles(PICTURES.own[:60], PICTURES.victims[:20])
    curve = Curve(NoisyWire(target(), "gaussian"), [0.5, 1.0], few, refusing)
    curve.untrained()
    assert [(each.place, each.name, each.reason) for each in curve.failed] == [
        (0, "ridge", "too thin"),
        (1, "ridge", "too thin"),
    ]
    assert [[*guesses] for guesses in curve.guesses] == [["mixture"], ["mixture"]]
    curve.ensured()
    # A guess that is no picture is no guess.
    curve.hear(0, "endless", Endless())
    assert curve.failed[-1].reason == "a guess is no finite picture"
    curve.guesses[1].clear()
    with pytest.raises(UsageError, match=r"at noise 1: ridge failed \(too thin\); mend the cause"):
        curve.ensured()


@pytest.mark.slow
def test_it_is_as_good_as_dedicated_ones(capsys: pytest.CaptureFixture[str]) -> None:
    learn, known = training(0), knowledges()
    made = ConditionedDecoder(known, learning_rate=3e-3, augment="none", max_epochs=16)
    made.prepare(learn)
    for place in (1, 2):
        alone = LearnedDecoder(max_epochs=8, learning_rate=3e-3, augment="none")
        attack = alone.build(known[place], 1, 0)
        attack.prepare(learn)
        errors = [own_error(each, known[place], 1, 0) for each in (made.at(place), attack)]
        assert Check(place, *errors).passed, errors


def test_a_client_is_asked_once() -> None:
    asked = []

    def client(images: Tensor) -> Tensor:
        asked.append(len(images))
        return images.flatten(1) * 2

    once, images = remembering(client), torch.rand(5, 1, 2, 2)
    first = once(images)
    first += 1  # who gets an answer may do with it what he likes
    assert torch.equal(once(images.clone()), images.flatten(1) * 2) and asked == [5]
    images.requires_grad_()
    once(images).sum().backward()
    assert asked == [5, 5] and (images.grad == 2).all()


# ---------------------------------------------------------------- all of it


def calibrated(text: str, learn: Learn = untaught, **settings: Any) -> Calibration:
    with_these = Settings(**{"decoder": BRIEF, **settings})
    return calibrate(target(), FEWER, Goal.parse(text), with_these, learn=learn)


def check_whole(found: Calibration, hidden: bool = False) -> None:
    """Hidden: so much noise that all along the curve next to nothing is left, of accuracy as of pictures."""
    json.dumps(found.plain(), allow_nan=False), json.dumps(found.curve, allow_nan=False)
    assert found.noise in [row["noise"] for row in found.curve] and found.checked["kept"]
    for column, rises in (("accuracy", False), ("SSIM", False), ("MSE", True), ("naming", False)):
        values = [row[column] for row in found.curve]
        assert values == sorted(values, reverse=not rises), column
        if column == "naming":
            continue
        # As it was measured it falls as well, within the intervals: what is shown falls by construction.
        measured = [row["measured"][column] for row in found.curve]
        best = min if rises else max
        assert values == [best(e["value"] for e in measured[at:]) for at in range(len(values))]
        for less, more in combinations(measured, 2):
            worse, better = (less, more) if rises else (more, less)
            assert worse["low"] <= better["high"], column
        ends = (measured[0], measured[-1]) if rises else (measured[-1], measured[0])
        assert hidden or ends[0]["high"] < ends[1]["low"], f"{column} is no level line"
    assert found.accuracy and found.ceiling
    costs = found.accuracy["as_it_is"]
    assert costs["low"] <= found.ceiling + 1 and found.accuracy["without"]["value"] > 80


@pytest.mark.parametrize(
    "kind",
    [
        "gaussian",
        "laplace",
    ],
)
def test_a_naming_bound_is_kept_on_fresh_victims(kind: str) -> None:
    found = calibrated("naming=0.3@100", kind=kind, clip=2.0)
    # Laplace noise on every value of a box costs so much that the server guesses, wherever on the curve.
    check_whole(found, hidden=kind == "laplace")
    if kind == "gaussian":
        row = next(row for row in found.curve if row["noise"] == found.noise)
        assert row["naming"] == pytest.approx(0.3, rel=0.01) and row["candidates"] == 100
    optimum = found.checked["optimum"]
    assert found.checked["victims"] == 32 and optimum["named"] <= optimum["promised"]
    assert [each["kind"] for each in found.considered] == [kind]
    assert found.checked["strongest"]["MSE"]["value"] > optimum["mse"] * 0.8


def test_an_error_is_kept_on_fresh_victims(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def heard(whole: Target, codes: Tensor, *more: Any) -> dict[str, Any]:
        asked.append(codes)
        return accuracy(whole, codes, *more)

    monkeypatch.setattr(searching, "accuracy", heard)
    found = calibrated("mse=0.03", kind="best")
    check_whole(found)
    # The kind is chosen by other victims than those whose accuracy is reported.
    assert {each["kind"] for each in found.considered} == {"gaussian", "laplace"}
    chosen, reported = asked[0], asked[-1]
    assert len(chosen) == len(reported) == 32
    assert all(torch.equal(each, chosen) for each in asked[:2])
    assert all(torch.equal(each, reported) for each in asked[2:])
    assert not {tuple(row) for row in chosen.tolist()} & {tuple(row) for row in reported.tolist()}
    assert found.checked["optimum"]["mse"] >= 0.03 and found.ceiling == 100
    assert found.checked["strongest"]["MSE"]["value"] >= 0.03


@pytest.mark.slow
def test_a_similarity_is_kept_on_fresh_victims() -> None:
    found = calibrated("ssim=0.75", kind="gaussian", queries=2)
    check_whole(found)
    worst = found.checked["strongest"]["SSIM"]
    assert worst["value"] <= 0.75 and found.queries == 2
    place = [row["noise"] for row in found.curve].index(found.noise)
    assert place == 0 or found.curve[place - 1]["SSIM"] > 0.6, "half the noise would be too little"


def audited(
    goal: str, strong: float, count: int = len(FEWER.victims)
) -> tuple[Curve, float, list[str]]:
    """Three noises at which nobody finds anything, but attacks of an audit do below some noise."""
    search = searching._Search(
        target(), FEWER, Goal.parse(goal), Settings(kind="gaussian"), None, refusing
    )
    curve = Curve(NoisyWire(target(), "gaussian"), [1.0, 2.0, 4.0], FEWER, refusing)
    nothing = FEWER.own.float().mean(0).div(255).expand_as(FEWER.victims)
    for guesses in curve.guesses:
        guesses["nobody"] = nothing

    def attack(noisy: Target) -> dict[str, Heard]:
        (noise,) = noisy.mechanism
        assert isinstance(noise, GaussianNoise)
        found = FEWER.victims if noise.std < strong else nothing
        return {"strong": Heard(noisy.transmit(search.codes), found[:count])}

    search.attackers = attack
    return curve, search._audited(curve, 1.0), search.notes


@pytest.mark.parametrize("count", [64, 40])
@pytest.mark.parametrize(("strong", "noise"), [(0.5, 1.0), (1.5, 2.0), (3.0, 4.0)])
def test_what_an_audit_would_find_takes_more_noise(count: int, strong: float, noise: float) -> None:
    """Also of an attack that is made on some of the victims alone."""
    curve, found, notes = audited("ssim=0.8", strong, count)
    assert found == noise
    assert [bool(each) for each in curve.audited] == [each <= noise for each in curve.noises]
    said = [note for note in notes if "attacks of an audit find more" in note]
    assert len(said) == [1.0, 2.0, 4.0].index(noise)


def test_no_noise_may_do() -> None:
    with pytest.raises(UsageError, match="leaves an attacker with an SSIM above 0.8"):
        audited("ssim=0.8", strong=5.0)


def test_what_an_audit_would_find_is_not_known_where_its_attack_failed() -> None:
    """Also where none came to an end: each noise is looked at once."""
    search = searching._Search(
        target(), FEWER, Goal.parse("ssim=0.8"), Settings(kind="gaussian"), None, refusing
    )
    curve = Curve(NoisyWire(target(), "gaussian"), [1.0, 2.0], FEWER, refusing)
    nothing = FEWER.own.float().mean(0).div(255).expand_as(FEWER.victims)
    for guesses in curve.guesses:
        guesses["nobody"] = nothing

    def kept() -> bool | None:
        rows = torch.arange(len(FEWER.victims))
        goal, client = Goal.parse("ssim=0.8"), target().client
        found, _ = checked(curve, 0, goal, rows, client, ("mse", "ssim"))
        return bool(found["kept"]) if found["kept"] is not None else None

    assert kept() is True
    asked: list[Target] = []
    search.attackers = lambda noisy: asked.append(noisy) or {"strong": "it broke"}  # type: ignore[func-returns-value]
    assert search._audited(curve, 1.0) == 1.0 and len(asked) == 1
    assert kept() is None and not curve.audited[0]
    assert search.failed[-1]["attack"] == "strong" and search.failed[-1]["reason"] == "it broke"
    assert any("strong failed (it broke) at noise 1" in note for note in search.notes)


def quiet_curve() -> tuple[Curve, Tensor]:
    """Two noises so small that nobody knows too much, at which nobody finds anything; and the mean picture."""
    curve = Curve(NoisyWire(target(), "gaussian"), [1e-3, 2e-3], FEWER, refusing)
    nothing = FEWER.own.float().mean(0).div(255).expand_as(FEWER.victims)
    for guesses in curve.guesses:
        guesses["nobody"] = nothing
    return curve, nothing


def similar(curve: Curve, place: int = 0) -> tuple[bool | None, list[str]]:
    """Whether an SSIM is kept on half of the victims, and what is said of it."""
    goal, rows = Goal("ssim", 0.8), torch.arange(0, len(FEWER.victims), 2)
    found, said = checked(curve, place, goal, rows, target().client, ("mse", "ssim"))
    return found["kept"], said


@pytest.mark.parametrize(
    ("count", "share", "kept"),
    [(24, 0, True), (24, 0.3, None), (24, 0.5, None), (24, 1, False), (2, 0, None)],
)
def test_an_attack_on_some_victims_alone_that_may_be_ahead_leaves_it_open(
    count: int, share: float, kept: bool | None
) -> None:
    """It finds a share of the pictures of some: whether that breaks the promise, all would have to tell."""
    curve, nothing = quiet_curve()
    right = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(0)) < share
    guesses = torch.where(right, FEWER.victims[:count], nothing[:count])
    curve.audited[0]["slow"] = Heard(torch.cat(curve.heard(0), 1), guesses)
    found, said = similar(curve)
    assert found is kept
    assert [note.startswith("slow was made on some victims alone") for note in said] == [True] * (
        kept is None
    )


@pytest.mark.parametrize(("noise", "kept"), [(1e-3, False), (1e3, None)])
@pytest.mark.parametrize("text", ["mse=0.02", "ssim=0.8"])
def test_few_victims_tell_what_is_broken_for_sure_and_no_more(
    text: str, noise: float, kept: bool | None
) -> None:
    """Of 20, behind next to no noise and behind so much that nobody hears anything."""
    curve = Curve(NoisyWire(target(), "gaussian"), [noise], FEWER, refusing)
    nothing = FEWER.own.float().mean(0).div(255).expand_as(FEWER.victims)
    curve.guesses[0]["somebody"] = nothing if kept is None else FEWER.victims
    rows, client = torch.arange(20), target().client
    found, said = checked(curve, 0, Goal.parse(text), rows, client, ("mse", "ssim"))
    assert found["victims"] == 20 and found["kept"] is kept and not said


@pytest.mark.parametrize(("named", "broken"), [(10, False), (14, False), (15, True), (20, True)])
def test_a_bound_is_broken_by_more_than_the_chance_of_so_few(named: int, broken: bool) -> None:
    """Of 20, each named half of the time, 15 or more are with a chance of 0.021, and 14 or more of 0.058."""
    right = (torch.arange(20) < named).float()
    seen = [(torch.ones(20), right)]
    assert _for_sure(Goal("naming", 0.3, 1000), seen, 0.5, None) is broken
    # The worse of two answers is so with twice the chance.
    seen.append((torch.ones(20), torch.zeros(20)))
    assert _for_sure(Goal("naming", 0.3, 1000), seen, 0.5, None) is (named > 15)


@pytest.mark.parametrize("answers", [1, 5])
def test_of_many_victims_the_worst_of_several_answers_is_no_breach_by_chance(answers: int) -> None:
    """Each answer's victims are named as often as is promised at most: 39 times of 40 nothing speaks against it."""
    draws, goal, broken = torch.Generator().manual_seed(answers), Goal("naming", 0.3, 1000), 0
    for _ in range(400):
        right = (torch.rand(answers, 100, generator=draws) < 0.5).float()
        seen = [(torch.ones(100), each) for each in right]
        broken += _for_sure(goal, seen, 0.5, None)
    assert broken <= 0.025 * 400 + 3 * math.sqrt(0.025 * 400)


@pytest.mark.parametrize("count", [8, 15, 29])
def test_unequal_errors_break_no_promise_that_holds(count: int) -> None:
    """Of lognormal ones, whose mean is promised, Student's t said it of every sixth draw."""
    errors = torch.randn(1000, count, generator=torch.Generator().manual_seed(count)).exp() / 100
    goal = Goal("mse", math.exp(0.5) / 100)
    broken = sum(_for_sure(goal, [(each, torch.ones(count))], 0.5, None) for each in errors)
    assert broken < 0.12 * 1000


@pytest.mark.parametrize("count", [8, 15, 29])
@pytest.mark.parametrize("rare", [0.01, 0.05, 0.2])
def test_victims_that_are_rare_break_no_promise_by_being_absent(count: int, rare: float) -> None:
    """Most have no error at all: without one of the others the promise looked broken to most draws."""
    draws = torch.Generator().manual_seed(count)
    found = torch.rand(1000, count, generator=draws)
    errors = torch.where(torch.rand(1000, count, generator=draws) < rare, 0.06 * found, 0.0)
    goal, right = Goal("mse", 0.03 * rare), torch.ones(count)
    broken = sum(_for_sure(goal, [(each, right)], 0.5, None, 0.06) for each in errors)
    assert broken <= 0.025 * 1000 + 3 * math.sqrt(0.025 * 1000)
    # And what is broken by far is.
    assert _for_sure(Goal("mse", 0.025), [(torch.zeros(count), right)], 0.5, None, 0.06)


@pytest.mark.parametrize(
    "victims", [2, 10, *(pytest.param(each, marks=pytest.mark.slow) for each in (5, 20))]
)
def test_few_victims_break_no_promise_that_holds(victims: int) -> None:
    """In most draws of the noise the errors of most victims are 0, which was taken for what all errors are."""
    wire = NoisyWire(target(), "gaussian")
    noise = 3 * wire.start(target().encode(PICTURES.victims))
    rows = [torch.randperm(200)[:victims] for _ in range(60)]
    codes = target().encode(PICTURES.victims)
    errors = [
        optimum_errors(wire, noise, codes[some], PICTURES.victims[some], draw)[0]
        for draw, some in enumerate(rows)
    ]
    goal = Goal("mse", float(torch.stack(errors).mean()))
    wrong = 0
    for some in rows:
        curve = Curve(wire, [noise], PICTURES, refusing)
        curve.guesses[0]["somebody"] = PICTURES.victims.mean(0).expand_as(PICTURES.victims)
        found, _ = checked(curve, 0, goal, some, target().client, ("ssim",))
        wrong += found["kept"] is False
    assert wrong <= 6  # 0.025 · 60 = 1.5


def test_a_failure_under_another_noise_leaves_nothing_open_under_this_one() -> None:
    curve, _ = quiet_curve()
    curve.failed.append(Failed(0, "decoder", "it broke"))
    assert similar(curve, 0)[0] is None and similar(curve, 1)[0] is True
    curve.failed.append(Failed(None, "conditioned decoder", "it broke"))
    assert similar(curve, 1)[0] is None


def test_a_bound_asks_no_attack_for_its_noise_but_watches_it() -> None:
    goal = Goal.parse("naming=0.3@100")
    curve, found, _ = audited("naming=0.3@100", strong=1.5)
    assert found == 1.0 and not curve.audited[1]
    _, beaten = checked(curve, 0, goal, torch.arange(64), target().client, ("mse", "ssim"))
    assert "knows what nobody can" in beaten[0], "who sees the picture under so much noise"


def test_what_no_server_can_do_is_said_before_anything_is_trained() -> None:
    with pytest.raises(
        UsageError, match=r"at most 7\d\.\d % .* 90 % .* ask for at most 7\d"
    ) as line:
        calibrated("naming=0.05@1000", refusing, kind="gaussian", clip=2.0, accuracy=90)
    assert "\n" not in str(line.value)
    advised = str(line.value).split("promise ")[1].split()[0]
    with pytest.raises(KeyboardInterrupt, match="something is trained"):
        calibrated(advised, refusing, kind="gaussian", clip=2.0, accuracy=90)


def test_best_of_all_says_why_a_kind_is_none() -> None:
    with pytest.raises(UsageError, match="gaussian: nothing bounds .*; laplace: nothing bounds"):
        calibrated("naming=0.05@1000", refusing, kind="best")


def test_who_listens_to_nothing_is_no_better_than_the_mean_image() -> None:
    with pytest.raises(UsageError, match="the mean of the attacker's own images"):
        calibrated("ssim=0.01", refusing, kind="gaussian")
    with pytest.raises(UsageError, match="give 4 or more"):
        few = Roles(PICTURES.own, PICTURES.victims[:3])
        calibrate(target(), few, Goal.parse("mse=0.03"), learn=refusing)


@pytest.mark.parametrize(
    ("promise", "tells", "line"),
    [
        ("mse=0.03", 0.0, "kept without any noise"),
        ("mse=0.03", 1.0, ""),
        ("ssim=0.8", 0.0, "the least noise that was tried"),
        ("ssim=0.7", 1.0, ""),
    ],
)
def test_where_no_noise_may_be_needed_it_is_said(promise: str, tells: float, line: str) -> None:
    class Client(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 0.7 + tells * images.flatten(1)

    given = Target.of_client(Client(), (1, 8, 8))
    settings = Settings(kind="gaussian", decoder=BRIEF)
    found = calibrate(given, FEWER, Goal.parse(promise), settings, learn=untaught)
    assert [line in note for note in found.notes] == [True] * bool(line), found.notes
    assert not found.failed


def test_without_server_and_classes_there_is_no_accuracy() -> None:
    pictures = Roles(FEWER.own, FEWER.victims)
    settings = Settings(kind="gaussian", decoder=BRIEF)
    found = calibrate(target(False), pictures, Goal.parse("mse=0.03"), settings, learn=untaught)
    assert found.ceiling is None and found.accuracy is None
    assert {row["accuracy"] for row in found.curve} == {None}


# ---------------------------------------------------------------- the command

MODEL = """
from collections import OrderedDict
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    layers = {"flat": nn.Flatten(), "enc": nn.Linear(64, 12), "head": nn.Linear(12, 10)}
    return nn.Sequential(OrderedDict(layers))
"""


@pytest.fixture
def given(place: Path) -> list[str]:
    """A model and pictures of anyone's, as options."""
    Path("net.py").write_text(MODEL)
    np.savez("digits.npz", images=PIXELS[:150, 0].numpy(), labels=LABELS[:150].numpy())
    return ["--model", "net.py:make", "--data", "digits.npz", "--cut", "enc"]


def attacked_briefly(monkeypatch: pytest.MonkeyPatch) -> list[Planned]:
    """What an audit does then: no descents, and a decoder that learns nothing."""
    monkeypatch.setattr(
        attacking, "fit", lambda module, **_: untaught(module, monitor="", mode="", max_epochs=1)
    )
    cheap = [each for each in plan.BUDGETS["quick"].attacks if not each.gradients]
    paid = replace(plan.BUDGETS["quick"], attacks=tuple(cheap))
    monkeypatch.setitem(plan.BUDGETS, "quick", paid)
    return cheap


def test_the_command_writes_what_it_found_and_gives_an_audit_its_curve(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = attacked_briefly(monkeypatch)
    audit = audit_example.content()
    audit["cuts"], audit["recommended"] = audit["cuts"][:1], None
    audit["cuts"][0] |= {"name": "enc", "shape": [12], "values": 12, "bytes": 48, "pictures": None}
    audit["model"]["parameters"] = 64 * 12 + 12 + 12 * 10 + 10
    audit["data"] |= {"name": "digits.npz", "images": 150}
    AuditResult.of(audit).save("audit/audit.json")
    options = {"kind": "gaussian", "clip": 2.0, "queries": 2, "finetune_epochs": 1}
    target = "naming=0.3@100"
    path = calibrate_model("net.py:make", "digits.npz", "enc", target, learn=untaught, **options)
    assert path == Path("audit/calibration.json")
    content = json.loads(path.read_text())
    found = content["calibration"]
    assert content["schema"] == "dpsnn-calibration/1" and content["cut"] == "enc"
    assert found["goal"]["measure"] == "naming" and found["queries"] == 2 and found["clip"] == 2
    assert found["accuracy"]["finetuned"]["value"] <= found["ceiling"] + 10
    assert found["checked"]["victims"] == 30 and found["checked"]["kept"]
    # Three or four of the curve, and all of an audit's, of which four are kept for it and one is made of them.
    assert found["checked"]["tried"] - (len(cheap) + 1) in (3, 4)
    kept = sorted(path.name.partition("-")[0] for path in Path("audit/attacks").iterdir())
    assert kept == ["decoder", "mixture", "nearest", "ridge"]
    curve = AuditResult.load("audit").curve
    assert curve == content["curve"] and len(curve) == 7
    assert all(png(row["pictures"]["guess"]["worst"]) for row in curve)


@pytest.mark.parametrize(("kept", "code"), [(True, 0), (None, 0), (False, 3)])
def test_a_broken_promise_fails_as_a_gate_does(
    place: Path,
    kept: bool | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def found(*given: Any, **named: Any) -> Path:
        checked = {"kept": kept, "victims": 30}
        Path("found.json").write_text(json.dumps({"calibration": {"checked": checked}}))
        return Path("found.json")

    monkeypatch.setattr(calibrate_run, "calibrate_model", found)
    words = ["--model", "net.py:make", "--data", "digits.npz", "--cut", "enc", "--target", "mse=1"]
    assert main(["calibrate", *words]) == code
    said = capsys.readouterr()
    assert said.out == "found.json\n", "it is named whatever comes of it"
    assert len(said.err.splitlines()) == (code == 3)


@pytest.mark.parametrize(
    ("options", "noisy"),
    [
        ({"kind": "gaussian"}, lambda noise: {"gaussian_std": noise}),
        (
            {"kind": "gaussian", "clip": 2.0, "queries": 2},
            lambda noise: {"clip_std": noise, "clip_radius": 2.0, "queries": 2},
        ),
        (
            {"kind": "laplace", "clip": 1.0},
            lambda noise: {"clamp_scale": noise, "clamp_radius": 1.0},
        ),
    ],
)
def test_an_audit_beside_it_finds_the_attacks_under_its_noise(
    given: list[str],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    noisy: Callable[[float], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    attacked_briefly(monkeypatch)
    made = ("net.py:make", "digits.npz")
    path = calibrate_model(*made, "enc", "mse=0.03", learn=untaught, **options)
    said = [line for line in capsys.readouterr().err.splitlines() if "enc behind" in line]
    assert said and all("seed 0" in line for line in said), "an attack is a line"
    noise = json.loads(path.read_text())["calibration"]["noise"]
    kept = {each: each.stat().st_mtime_ns for each in Path("audit/attacks").iterdir()}
    dpsnn.audit(*made, cuts=["enc"], out="audit", **noisy(noise))
    assert kept == {each: each.stat().st_mtime_ns for each in Path("audit/attacks").iterdir()}


def test_before_another_calibration_is_replaced_it_is_said(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attacked_briefly(monkeypatch)
    said = []
    for promise in ("mse=0.03", "mse=0.03", "mse=0.02"):
        calibrate_model(
            "net.py:make", "digits.npz", "enc", promise, learn=untaught, kind="gaussian"
        )
        said.append("calibration.json is of enc (no guess" in capsys.readouterr().err)
    assert said == [False, False, True]
    for text in ("{", "[]", '{"cut": 1}', "\xff"):
        Path("other.json").write_text(text, "latin-1")
        assert beside.replaced(Path("other.json"), "enc", "") == ""
    assert beside.replaced(Path("none.json"), "enc", "") == ""


def png(address: str) -> bool:
    return address.startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--target", "naming=2"], "the target is 'naming=2'"),
        ([], "name --target"),
        (["--target", "mse=0.01", "--noise_kind", "uniform"], "noise_kind"),
        (["--target", "mse=0.01", "--clip", "-1"], "clip is -1"),
        (["--target", "naming=0.05@1000"], "nothing bounds what crosses the wire"),
        (
            [
                *("--target", "naming=0.05@1000", "--accuracy", "90"),
                *("--noise_kind", "gaussian", "--clip", "2"),
            ],
            "and 90 % are asked for",
        ),
    ],
)
def test_bad_input_is_one_line(
    given: list[str], options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *given, *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in said
