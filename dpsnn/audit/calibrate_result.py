"""What `calibrate` is told and what it finds, in plain values."""

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from torch import Tensor

from dpsnn.attacks.decoder import LearnedDecoder
from dpsnn.audit.calibrate_noise import BEST, KINDS
from dpsnn.errors import UsageError, one_of
from dpsnn.tensors import Number


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to look for the noise."""

    kind: str = BEST
    """Of `KINDS`, or `best`: the one under whose promise a server can be the most accurate."""
    clip: Number | None = None
    queries: int = 1
    accuracy: Number | None = None
    """Per cent that are asked for; less than the promise can leave is refused at once."""
    finetune_epochs: int = 0
    decoder: LearnedDecoder = LearnedDecoder()
    """Of a dedicated one."""
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self.kind, (*KINDS, BEST), "kind of noise")
        if self.kind == BEST and self.clip is not None:
            clips = " and ".join(f"{each.clip} before {name} noise" for name, each in KINDS.items())
            raise UsageError(
                f"a --clip to {self.clip} bounds {clips}: which is best under it means nothing; name the --noise_kind"
            )


class Shown(NamedTuple):
    """Three victims along the curve."""

    victims: dict[str, int]
    """`best`, `median` and `worst` as they see it at the noise that was found: of the worst most is rebuilt."""
    guesses: list[dict[str, Tensor]]
    """Of every noise: those → the guess of the strongest attacker there."""
    scores: list[dict[str, dict[str, float]]]
    """Of every noise: those → measure → value."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The noise, what was considered, what it costs, and whether the promise is kept; docs/guarantees.md says more."""

    goal: dict[str, Any]
    """`measure`, `value`, `candidates` and the same in `words`."""
    kind: str
    noise: float
    """The scale of Laplace noise or the standard deviation of Gaussian."""
    clip: Number | None
    queries: int
    mechanism: str
    ceiling: float | None
    """Per cent that any server classifies rightly, at most; None without classes."""
    largest_share: float | None
    asked: Number | None
    accuracy: dict[str, Any] | None
    """`without` noise, `as_it_is` with it, and `finetuned` after `epochs`: estimates in per cent over fresh victims, or
    None."""
    considered: list[dict[str, Any]]
    """Of each kind: `kind`, `noise`, `ceiling`, the `accuracy` over the other victims by which it was chosen, and in
    `reason` why there is none."""
    checked: dict[str, Any]
    """On fresh victims: how many, the `strongest` attacker's estimates, the exact optimum of these victims (`named`,
    `mse`), and whether the promise is `kept`; None where there are too few to say."""
    decoder: list[dict[str, Any]]
    """Where the conditioned decoder was looked at: `noise`, its own error and that of a `dedicated` one, `passed`."""
    curve: list[dict[str, Any]]
    """A row for each noise, as in an audit, with `intervals`, who is strongest (`by`) and the `ceiling` beside; and in
    `measured` what that noise alone gave, where the rest is what it or more of it gave."""
    shown: Shown
    """What to show of it."""
    failed: list[dict[str, Any]] = field(default_factory=list)
    """Attackers that failed: `attack`, `kind` and `noise` (None is all of the curve), and the `reason`."""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Without the curve, which stands by itself in an audit, and without pictures."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in ("curve", "shown")
        }
