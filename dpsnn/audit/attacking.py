"""One attack at one cut: prepared on own pictures, scored on victims, kept in a file, and never silently missing."""

import ast
import hashlib
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn import __version__
from dpsnn.atomic import staged
from dpsnn.attacks import Attack, AttackModule
from dpsnn.attacks.base import Need
from dpsnn.audit.plan import Planned
from dpsnn.audit.wire import Wire
from dpsnn.batches import to_unit
from dpsnn.errors import UsageError, reading
from dpsnn.metrics.base import standard_error
from dpsnn.metrics.squared_error import mse
from dpsnn.training import Fitted, device, fit, seeded

JUDGED = 250
"""Own validation pictures on which an attack judges itself, at most."""


@dataclass(frozen=True)
class Attempt:
    """What became of one attack."""

    planned: Planned
    seed: int
    status: str = "ok"
    reason: str | None = None
    guesses: Float[Tensor, "n c h w"] = field(default_factory=lambda: torch.zeros(0, 1, 1, 1))
    """Of the first n victims, in [0, 1]."""
    judged: Float[Tensor, "m c h w"] | None = None
    """Guesses of the first own validation pictures, `JUDGED` at most; None of what is no map that learns."""
    seconds: float = 0.0
    own_error: float | None = None
    own_floor: float | None = None
    own_spread: float | None = None
    """Standard error of their difference, picture by picture; None of what did not judge itself on these."""
    doubling: float | None = None
    """By how much the last doubling of its epochs lowered the own error, as a share; `DIVERGED` where the first did."""
    settings: dict[str, Any] = field(default_factory=dict)
    kept: bool = False
    """Whether an earlier call made it."""

    @property
    def victims(self) -> int:
        return len(self.guesses)


class _Lesson:
    """How an attack is trained here."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(
        self,
        module: pl.LightningModule,
        *,
        monitor: str,
        mode: str,
        max_epochs: int,
        trial: str = "",
    ) -> Fitted:
        return fit(
            module, monitor=monitor, mode=mode, max_epochs=max_epochs, seed=self.seed, title=trial
        )


def attempt(wire: Wire, planned: Planned, seed: int, folder: Path | None) -> Attempt:
    """Attack, or take what the same attack gave before.

    Args:
        wire: What is heard.
        planned: The attack.
        seed: Of what it draws.
        folder: Where what it gives is kept; None keeps nothing.
    """
    if hindrance := planned.hindrance(wire):
        return Attempt(planned, seed, "skipped", hindrance.reason)
    method = planned.method(wire)
    path = None if folder is None else folder / f"{_mark(wire, method, planned, seed)}.npz"
    if path is not None and (known := _read(path, planned, seed, wire)):
        return known
    start = time.monotonic()
    try:
        done = _attacked(wire, planned, method, seed)
    except (Exception, SystemExit) as error:  # a failed attack is a row, whatever it failed of
        told = " ".join(str(error).split())[:300] or "no reason given"
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        return Attempt(planned, seed, "failed", f"{kind}{told}", seconds=time.monotonic() - start)
    done = replace(done, seconds=time.monotonic() - start)
    if path is not None:
        _keep(path, done)
    return done


def _attacked(wire: Wire, planned: Planned, method: Attack, seed: int) -> Attempt:
    given = wire if planned.own is None else _with_fewer(wire, planned.own)
    with seeded(seed, 3):
        attack = method.build(given.knowledge(method.needs), wire.queries, seed)
    with seeded(seed, 13):
        fitted = attack.to(device()).prepare(_Lesson(seed))
    attack.to(device()).eval()
    # Who descends for each picture by itself has judged itself already, on other own ones than these.
    own: Judgement = (None, None, None)
    if planned.gradients and math.isfinite(fitted.value):
        own = (fitted.value, None, None)
    judged = None
    if planned.maps:
        with torch.no_grad(), seeded(seed, 12):
            judged = _guessed(attack, wire.heard_validation[:, :JUDGED])
        own = judgement(judged, wire)
    with torch.no_grad(), seeded(seed, 11):
        guesses = _guessed(attack, wire.heard)
    chosen = {**method.flattened(), **attack.chosen(), "seed": seed, "own_pictures": len(given.own)}
    doubling = chosen.get("doubling")
    settings = {name: value for name, value in chosen.items() if _is_plain(value)}
    return Attempt(
        planned,
        seed,
        guesses=guesses,
        judged=judged,
        own_error=own[0],
        own_floor=own[1],
        own_spread=own[2],
        doubling=doubling,
        settings=settings,
    )


Judgement = tuple[float | None, float | None, float | None]
"""Own error, floor and spread of an attempt."""


def judgement(
    judged: Float[Tensor, "m c h w"], wire: Wire, rows: slice = slice(JUDGED)
) -> Judgement:
    """The error of guesses of own validation pictures, that of the mean image, and the standard error between them.

    Args:
        judged: Guesses.
        wire: Whose pictures.
        rows: Of which of them.
    """
    truth = to_unit(wire.validation[rows])
    errors, usual = mse(judged, truth), mse(wire.usual.expand_as(truth), truth)
    spread = standard_error(errors - usual)
    return float(errors.mean()), float(usual.mean()), spread if math.isfinite(spread) else None


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _with_fewer(wire: Wire, own: int) -> Wire:
    return replace(wire, own=wire.own[:own], activations=wire.activations[:own])


def _guessed(attack: AttackModule, heard: Tensor) -> Tensor:
    guesses = attack.infer_in_parts(heard.to(device())).float().cpu()
    if not bool(guesses.isfinite().all()):
        raise UsageError("a guess is no finite picture")
    return guesses


# ---------------------------------------------------------------- kept


MAKING = 2
"""Raised when the same attacks of the same versions come out otherwise, if ever so little: what was kept is no answer.

Their own versions are for what is named and shown, and are raised for more than that.
"""


def _mark(wire: Wire, method: Attack, planned: Planned, seed: int) -> str:
    """What tells this attempt from every other: what is sent, and for who has more of the halves what these do."""
    seen = (
        wire.slope if Need.WEIGHTS in method.needs else "",
        wire.answers if Need.SERVER in method.needs else "",
    )
    how = (method, method.version, planned.own, planned.gradients, seed, __version__, MAKING)
    said = repr((wire.digest, wire.queries, *seen, *how))
    return f"{planned.key}-{hashlib.sha256(said.encode()).hexdigest()[:24]}"


def _keep(path: Path, done: Attempt) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {
        name: math.nan if (value := getattr(done, name)) is None else value
        for name in ("seconds", "own_error", "own_floor", "doubling")
    }
    settings = {name: np.array(repr(value)) for name, value in done.settings.items()}
    judged = {} if done.judged is None else {"judged": done.judged.numpy()}
    with staged(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            guesses=done.guesses.numpy(),
            numbers=np.array([*numbers.values()]),
            **judged,
            **{f"set_{name}": value for name, value in settings.items()},
        )


def _read(path: Path, planned: Planned, seed: int, wire: Wire) -> Attempt | None:
    """What was kept; None where there is nothing, or nothing whole."""
    try:
        with reading(path, "an attempt", "make it anew"), np.load(path, allow_pickle=False) as kept:
            numbers = [None if math.isnan(each) else float(each) for each in kept["numbers"]]
            seconds, own_error, _, doubling = numbers
            settings = {
                name.removeprefix("set_"): ast.literal_eval(str(kept[name]))
                for name in kept.files
                if name.startswith("set_")
            }
            guesses = torch.from_numpy(kept["guesses"])
            judged = torch.from_numpy(kept["judged"]) if planned.maps else None
    except UsageError:
        return None
    if not _sound(guesses, wire, range(1, len(wire.victims) + 1)):
        return None
    count = min(JUDGED, len(wire.validation))
    if judged is not None and not _sound(judged, wire, range(count, count + 1)):
        return None
    own: Judgement = (own_error, None, None) if judged is None else judgement(judged, wire)
    return Attempt(
        planned,
        seed,
        guesses=guesses,
        judged=judged,
        seconds=seconds or 0.0,
        own_error=own[0],
        own_floor=own[1],
        own_spread=own[2],
        doubling=doubling,
        settings=settings,
        kept=True,
    )


def _sound(guesses: Tensor, wire: Wire, counts: range) -> bool:
    """Whether these are so many pictures as they are attacked there."""
    if guesses.dtype != torch.float32 or guesses.shape[1:] != wire.image_shape:
        return False
    return len(guesses) in counts and bool(guesses.isfinite().all())
