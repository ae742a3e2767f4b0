"""Columns of what nobody can beat: beside every attacker of known noise, and in the way of those who cheat."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from dpsnn.cli import main
from dpsnn.defences import DefenceModule
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.densities import Gaussian, Laplace
from dpsnn.defences.mechanism import pace
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.defences.quantise import Quantise
from dpsnn.evaluation import attackers, bounds, tables
from dpsnn.evaluation.bounds import BOUNDS, Beaten, Bounds, bounds_of
from dpsnn.metrics.optimum import posterior, posterior_mean
from dpsnn.target import Target

SHAPE = (1, 4, 4)


def images(count: int = 200) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(count, *SHAPE)


def target(*noise: DefenceModule) -> Target:
    torch.manual_seed(1)
    client = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh())
    return Target.of_client(client, SHAPE, *noise)


def watched(
    wire: Target,
    attack: Callable[[Tensor, Tensor], Tensor],
    shown: Tensor | None = None,
    queries: int = 1,
    part: int = 64,
) -> dict[str, object]:
    """The cells of an attacker, who answers to what it hears and the truth.

    Args:
        shown: What it hears; accounted for are the first `queries` of these.
    """
    sent = images()
    codes = wire.encode(sent)
    watching = Bounds(wire, codes, sent, queries)
    start = 0
    for block in codes.split(part):
        rows = slice(start, start + len(block))
        given = wire.transmit(block, queries) if shown is None else shown[:, rows]
        watching.hear(given[:queries], attack(given, sent[rows]))
        start += len(block)
    return watching.cells()


def best(wire: Target) -> Callable[[Tensor, Tensor], Tensor]:
    sent = images()
    codes = wire.encode(sent)
    return lambda heard, truth: posterior_mean(
        posterior(wire.mechanism.pairwise(codes, heard)), sent
    )


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize(
    "noise", [GaussianNoise(0.5), LaplaceNoise(0.4), ClipGaussian(0.5, 0.7)], ids=str
)
def test_the_best_attacker_is_as_good_as_its_bound(noise: DefenceModule, queries: int) -> None:
    wire = target(noise)
    cells = watched(wire, best(wire), queries=queries)
    assert tuple(cells) == BOUNDS and cells["BoundN"] == 200
    assert cells["BoundShare"] == pytest.approx(1, abs=1e-5)
    assert 0 < cells["MSEBound"] < images().var() and 0.5 < cells["NamedBound"] < 100
    assert cells["NamedBound"] < cells["NamingBoundHere"] <= cells["NamingBound"] <= 100
    mean_image = watched(
        wire, lambda heard, truth: images().mean(0).expand_as(truth), queries=queries
    )
    assert mean_image["MSEBound"] == pytest.approx(cells["MSEBound"], rel=0.2)
    assert mean_image["BoundShare"] < 1


def test_more_transmissions_are_accounted_for() -> None:
    wire = target(GaussianNoise(0.5))
    few, many = (watched(wire, best(wire), queries=q) for q in (1, 9))
    assert many["MSEBound"] < few["MSEBound"] and many["NamingBound"] > few["NamingBound"]
    assert many["DFILBound"] == pytest.approx(few["DFILBound"] / 9)


@pytest.mark.parametrize("noise", [GaussianNoise(1.0), LaplaceNoise(0.8)], ids=str)
def test_who_hears_twice_what_is_accounted_for_once_is_caught(noise: DefenceModule) -> None:
    wire = target(noise)
    twice = wire.transmit(wire.encode(images()), 6)
    with pytest.raises(Beaten, match="more crosses the wire, or there is less noise"):
        watched(wire, best(wire), shown=twice)
    watched(wire, best(wire), shown=twice, queries=6)


def test_who_is_handed_the_truth_is_caught() -> None:
    with pytest.raises(Beaten, match="knows what nobody can"):
        watched(target(GaussianNoise(1.0)), lambda heard, truth: truth)
    # Where next to no noise hides it everyone has the truth.
    cells = watched(target(GaussianNoise(1e-4)), lambda heard, truth: truth)
    assert cells["MSEBound"] == 0 and cells["NamedBound"] == 100 and cells["BoundShare"] is None


def test_less_noise_than_is_claimed_is_caught() -> None:
    class Claims(GaussianNoise):
        def mechanism(self) -> tuple[Gaussian]:
            return (Gaussian(1.0),)

    with pytest.raises(Beaten):
        watched(target(Claims(0.3)), best(target(GaussianNoise(0.3))))


@pytest.mark.parametrize("defences", [[], [Quantise(3)]], ids=["nothing", "rounding"])
def test_without_known_noise_there_are_none(defences: list[DefenceModule]) -> None:
    wire = target(*defences)
    assert bounds_of(wire, wire.encode(images()), images(), 1) is None


def test_values_outside_their_set_are_caught() -> None:
    """Codes 100 apart are all named, where noise of 5 on values within ±1 promises that hardly any is."""
    client = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    target = Target.of_client(client, (1, 3, 3), GaussianNoise(5.0), bound=1.0)
    images = 1000 * torch.rand(60, 1, 3, 3)
    codes = target.encode(images)
    watched = Bounds(target, codes, images, 1)
    heard = target.transmit(codes)
    watched.hear(heard, posterior_mean(posterior(target.mechanism.pairwise(codes, heard)), images))
    with pytest.raises(
        Beaten, match="are named, and NamingBoundHere promises .* values lie outside the set"
    ):
        watched.cells()


def test_a_client_without_gradients_has_all_other_bounds() -> None:
    """As one that another program runs."""
    weights = torch.randn(9, 4)
    target = Target.of_client(
        lambda images: (images.detach().flatten(1) @ weights).tanh(),
        (1, 3, 3),
        LaplaceNoise(1.0),
        bound=1.0,
    )
    images = torch.rand(30, 1, 3, 3)
    codes = target.encode(images)
    watched = Bounds(target, codes, images, 1)
    watched.hear(target.transmit(codes), images.mean(0).expand_as(images))
    cells = watched.cells()
    assert cells["DFILBound"] is None and {*cells} == {*BOUNDS}


def test_of_what_takes_long_only_the_first_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = target(LaplaceNoise(0.4))
    monkeypatch.setattr(bounds, "PATIENCE", 1.2 * 8 * 10**2)
    cells = watched(wire, best(wire))
    assert cells["BoundN"] == 10
    monkeypatch.undo()
    assert watched(wire, best(wire))["MSEBound"] > cells["MSEBound"]


@pytest.mark.parametrize(
    "steps, nanoseconds",
    [
        ([Laplace(1.0)], 0.15),
        ([Gaussian(1.0)], 0.1),
        ([Laplace(1.0), Laplace(0.5)], 10),
        ([Laplace(1.0), Gaussian(0.5)], 120),
        ([Laplace(1.0), *Quantise(3, -1.0, 1.0).mechanism()], 70),
        ([Gaussian(1.0), *Quantise(3, -1.0, 1.0).mechanism()], 160),
    ],
)
def test_how_long_it_takes_goes_by_what_is_done(steps: list[Any], nanoseconds: float) -> None:
    assert pace(steps, torch.zeros(1, 1).expand(5000, 500)) == nanoseconds


def test_what_is_not_compiled_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pace([Laplace(1.0)], torch.zeros(200, 8)) == 1.2, "too few to compile for"
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it is missing
    assert pace([Laplace(1.0)], torch.zeros(1, 1).expand(5000, 500)) == 1.2


def test_what_was_heard_before_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, calls = target(LaplaceNoise(0.4)), []
    monkeypatch.setattr(bounds, "posterior", lambda misfits: calls.append(1) or posterior(misfits))
    torch.manual_seed(7)
    heard = wire.transmit(wire.encode(images()))
    for _ in range(3):
        watching = Bounds(wire, wire.encode(images()), images(), 1)
        for rows in (slice(0, 120), slice(120, 200)):
            watching.hear(heard[:, rows], images()[rows] * 0)
        watching.cells()
    assert len(calls) == 2


def test_rows_of_a_table_have_them(
    place: Path, classifier_file: Callable[..., Path], attacker_file: Callable[..., Path]
) -> None:
    noisy = classifier_file(place / "models", gaussian_std=2.0)
    attacker_file(place / "models", noisy)
    attacker_file(place / "models", classifier_file(place / "models"))
    classifier_file(place / "models", validator=True)
    assert main(["evaluate_attackers"]) == 0
    rows = {row["Model"]: row for row in tables.read(tables.attackers_table("results"))}
    plain, bounded = rows["digits_00noise_00nopeek_epoch=00"], rows[noisy.stem]
    assert not any(plain[column] for column in BOUNDS)
    number = {column: float(bounded[column]) for column in BOUNDS}
    assert number["BoundN"] == float(bounded["Images"])
    assert number["BoundShare"] == pytest.approx(
        number["MSEBound"] / float(bounded["MSE"]), rel=1e-4
    )
    # An untrained client, in ±1, and noise of 2: what its users send is hardly told apart.
    assert number["NamingBoundHere"] < number["NamingBound"] < 100.1
    right = round(number["NamedBound"] * number["BoundN"] / 100)
    assert binom.sf(right - 1, number["BoundN"], number["NamingBoundHere"] / 100) > 0.01
    assert all(math.isfinite(value) for value in number.values())


def test_an_attacker_who_cheats_gets_no_row(
    place: Path,
    classifier_file: Callable[..., Path],
    attacker_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    attacker_file(place / "models", classifier_file(place / "models", gaussian_std=5.0))
    classifier_file(place / "models", validator=True)
    hear = Bounds.hear

    def told(self: Bounds, heard: Tensor, guesses: Tensor) -> None:
        hear(self, heard, self.images[self.heard : self.heard + len(guesses)])

    monkeypatch.setattr(attackers.Bounds, "hear", told)
    assert main(["evaluate_attackers"]) == 1
    assert "knows what nobody can" in capsys.readouterr().err.splitlines()[-1]
    assert not tables.read(tables.attackers_table("results"))
