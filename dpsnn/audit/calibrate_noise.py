"""How much noise a promise asks for: what may be promised, by which noise, and the least of it that keeps it."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.defences import DefenceList, DefenceModule
from dpsnn.defences.clamp import ClampLaplace
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.noise import GaussianNoise, LaplaceNoise
from dpsnn.errors import UsageError, choose
from dpsnn.evaluation.bounds import Bounds
from dpsnn.metrics.base import mean, standard_error
from dpsnn.metrics.ceiling import accuracy_ceiling, least_noise
from dpsnn.target import Target
from dpsnn.tensors import Activation, Images, Number
from dpsnn.training import seeded

SURE = 1.96 * math.sqrt(2)
"""Standard errors between a mean that was measured and one of as many others that is to be kept, 39 times of 40."""

SAMPLED = 0.02
"""Of the noise: how near to the least one a search comes that rests on draws."""

MOST = 10**300
"""Candidates of a naming bound: the chance to guess one of many more is no number above 0 to a computer."""

DIGITS = 4
"""Of a noise, as it is found, written and said."""

# ---------------------------------------------------------------- what is promised


class Goal(NamedTuple):
    """A promise to who sends images."""

    measure: str
    """`naming`: the share that anybody names, at most; `mse`: the error of the best guess that there is, at least;
    `ssim`: that of the strongest attacker tried, at most."""
    value: float
    candidates: int = 0
    """Of a naming bound: among how many."""

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """`naming=0.05@1000`, `mse=0.05` or `ssim=0.3`.

        Raises:
            UsageError: If it is none of these, or can be promised by nobody or for nothing.
        """
        found = re.fullmatch(
            r"(naming|mse|ssim)=([\d.]+(?:e-?\d+)?)(?:@(\d+))?", text.strip().lower()
        )
        try:
            measure, value, among = found.groups() if found else ("", "", None)
            goal = cls(measure, float(value), int(among or 0))
        except ValueError:
            goal = cls("", 0.0)
        if not goal.measure or (goal.measure == "naming") != bool(goal.candidates):
            raise UsageError(
                f"the target is {text!r}; it must be naming=SHARE@AMONG, mse=LEAST or ssim=MOST, for instance"
                " naming=0.05@1000"
            )
        if goal.candidates > MOST:
            raise UsageError(f"the target is {text!r}; it is among 1e300 at most")
        if goal.measure == "naming" and not 1 / goal.candidates < goal.value < 1:
            raise UsageError(
                f"the target is {text!r}; the share named must be above {1 / goal.candidates:.3g}, which guessing gives"
                f" among {goal.candidates:,}, and below 1"
            )
        if not 0 < goal.value < 1:
            raise UsageError(f"the target is {text!r}; its value must lie between 0 and 1")
        return goal

    @property
    def words(self) -> str:
        if self.measure == "naming":
            return f"at most {100 * self.value:g} of 100 named among {self.candidates:,}"
        if self.measure == "mse":
            return (
                f"no guess with a mean squared error below {self.value:g}, on average over victims"
            )
        return f"no attacker tried with an SSIM above {self.value:g}, on average over victims"


# ---------------------------------------------------------------- of which noise


class Kind(NamedTuple):
    """A distribution of noise, as a defence by itself and behind the clip that suits it."""

    plain: Callable[[Number], DefenceModule]
    clipped: Callable[[Number, Number], DefenceModule]
    clip: str
    """What that clips."""
    usual: Callable[[Activation], Tensor]
    """Of every activation that which it clips."""


KINDS = {
    "gaussian": Kind(
        GaussianNoise,
        ClipGaussian,
        "the L2 norm of an activation",
        lambda codes: codes.flatten(1).norm(dim=1),
    ),
    "laplace": Kind(
        LaplaceNoise,
        ClampLaplace,
        "the size of every value",
        lambda codes: codes.flatten(1).abs().amax(1),
    ),
}
BEST = "best"


@dataclass(frozen=True)
class NoisyWire:
    """A target behind which noise of one kind is to be put, how much is left open."""

    target: Target
    kind: str
    clip: Number | None = None
    """What an activation is clipped to before; None leaves it."""
    queries: int = 1
    """How often an attacker hears each image."""

    def __post_init__(self) -> None:
        choose(KINDS, self.kind, "kind of noise")
        noisy = [str(step) for step in self.target.mechanism.mechanism() if step.random]
        if noisy:
            raise UsageError(
                f"{noisy[0]} is on the wire already; calibrate the model without it, and put noise there afterwards"
            )

    def at(self, noise: Number) -> Target:
        """The target with so much of it, as it is deployed: noise in training is drawn in single precision."""
        kind = KINDS[self.kind]
        module = kind.plain(noise) if self.clip is None else kind.clipped(noise, self.clip)
        return replace(self.target, mechanism=DefenceList([*self.target.mechanism, module]).eval())

    def named(self, candidates: Number) -> Callable[[Number], float]:
        """Noise → share of so many inputs that anybody names, at most, whatever they are."""
        return lambda noise: self.at(noise).naming(candidates, self.queries)

    def ceiling(self, noise: Number, largest: Number) -> float:
        """The share that any server classifies rightly, at most: also one trained anew, as long as the set is kept."""
        return accuracy_ceiling(lambda n: self.named(n)(noise), largest)

    @property
    def bounded(self) -> bool:
        """Whether anything bounds what is sent, so that noise promises something."""
        return self.named(2)(1e15) < 1

    def start(self, codes: Activation) -> float:
        """A noise of about the size of what it hides, to begin a search with."""
        spread = float(self.at(0).transmit(codes)[0].flatten(1).std(0).square().mean().sqrt())
        return spread if math.isfinite(spread) and spread > 0 else 1.0


# ---------------------------------------------------------------- how much of it


def upwards(noise: Number) -> float:
    """The least number of DIGITS digits that is as large: who reads it has no less noise than was found."""
    return float(Context(DIGITS, ROUND_CEILING).create_decimal(repr(float(noise))))


def at_most(percent: Number) -> str:
    """To a tenth, upwards."""
    return f"{math.ceil(round(10 * percent, 6)) / 10:.1f}"


def _in_digits(noise: float, kept: Callable[[float], bool]) -> float:
    """The same of a noise that keeps a promise: what is returned was tried."""
    noise = upwards(noise)
    while not kept(noise):
        noise = upwards(1.001 * noise)
    return noise


def noise_for_naming(wire: NoisyWire, goal: Goal, codes: Activation) -> float:
    """The least noise, to two thousandths, that promises it to any input; of DIGITS digits.

    Raises:
        UsageError: If nothing bounds what is sent.
    """
    if not wire.bounded:
        kind = KINDS[wire.kind]
        raise UsageError(
            f"nothing bounds what crosses the wire, so no {wire.kind} noise promises anything; name a --clip of"
            f" {kind.clip} beside --noise_kind {wire.kind}: half of the images here are below"
            f" {float(kind.usual(codes).median()):.3g}"
        )
    named = wire.named(goal.candidates)
    noise = least_noise(named, goal.value, wire.start(codes))
    return _in_digits(noise, lambda n: named(n) <= goal.value)


def optimum_errors(
    wire: NoisyWire, noise: Number, codes: Activation, images: Images, seed: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The error of the best guess there is of each image, if one of these was sent, and 1 where it names the right one.

    All noises are drawn from the same numbers, so that more noise differs in its size alone. Of many images the first.
    """
    target = wire.at(noise)
    bounds = Bounds(target, codes, images, wire.queries)
    codes = bounds.activations
    with seeded(seed, 41):
        heard = target.transmit(codes, wire.queries)
    bounds.hear(heard, torch.zeros_like(bounds.images))
    return torch.cat(bounds.least), torch.cat(bounds.right)


def noise_for_error(
    wire: NoisyWire, goal: Goal, codes: Activation, images: Images, seed: int
) -> float:
    """The least noise, to a fiftieth, at which the best guess that there is of as many images has this error; of DIGITS
    digits.

    The images at hand speak for others with a margin, `SURE`.

    Raises:
        UsageError: If no noise does.
    """

    def least(noise: Number) -> float:
        errors, _ = optimum_errors(wire, noise, codes, images, seed)
        return mean(errors) - SURE * (standard_error(errors) if len(errors) > 1 else 0.0)

    start = wire.start(codes)
    most = least(1e6 * start)
    if most < goal.value:
        raise UsageError(
            f"no noise makes the best guess of {len(images)} images worse than their mean image, which has a mean"
            f" squared error of {most:.3g} for sure; ask for less than mse={goal.value:g}"
        )
    noise = least_noise(lambda noise: -least(noise), -goal.value, start, SAMPLED)
    return _in_digits(noise, lambda n: least(n) >= goal.value)
