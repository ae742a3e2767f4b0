"""The pictures of an audit's page: what was sent beside what was rebuilt, a state for each cut or each noise."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpsnn.audit.report_words import PERCENT, Scale, clean, rough
from dpsnn.audit.result import AuditResult

Json = Mapping[str, Any]

_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/]+={0,2})\Z")

_MAGIC = b"\x89PNG\r\n\x1a\n"

VICTIMS = {
    "worst": "Worst off",
    "median": "In the middle",
    "best": "Best off",
}
"""As the results call a victim → as the page does."""


@dataclass(frozen=True)
class Shown:
    """A victim."""

    who: str
    scores: str
    truth: str
    """Address of the picture; empty where there is none that can be shown."""
    guess: str
    truth_alt: str
    guess_alt: str


@dataclass(frozen=True)
class State:
    """Where the slider can stand."""

    name: str
    told: str
    level: str
    victims: tuple[Shown, ...]


@dataclass(frozen=True)
class Gallery:
    """A slider with its pictures."""

    key: str
    title: str
    word: str
    """What the slider goes through: `Cut`."""
    states: tuple[State, ...]
    start: int
    """The state shown first."""


def png(address: object) -> str:
    """The address of a PNG picture within itself as it is; empty for any other, which a browser could fetch or run."""
    found = _PNG.match(address) if isinstance(address, str) else None
    if found is None:
        return ""
    try:
        data = base64.b64decode(found[1], validate=True)
    except binascii.Error:
        return ""
    return found[0] if data.startswith(_MAGIC) else ""


def galleries(
    cuts: Sequence[Json],
    result: AuditResult,
    scales: Mapping[str, Scale],
    levels: Mapping[str, str],
) -> tuple[Gallery, ...]:
    """Over the cuts, and over the noise where it was varied; only what has pictures."""
    best = result.recommended["cut"] if result.recommended else None
    over_cuts = [
        (cut["name"], _state(clean(cut["name"]), levels[level], level, cut["pictures"], scales))
        for cut in cuts
        for level in [cut["verdict"]["level"]]
        if cut["pictures"]
    ]
    over_noise = [
        _state(
            f"{clean(point['kind'])} noise {rough(point['noise'])}",
            _point(point, scales),
            "",
            found,
            scales,
        )
        for point in sorted(result.curve or [], key=lambda point: float(point["noise"]))
        if (found := point["pictures"])
    ]
    shown: list[Gallery] = []
    if over_cuts:
        start = next((at for at, (name, _) in enumerate(over_cuts) if name == best), 0)
        states = tuple(state for _, state in over_cuts)
        shown.append(Gallery("cuts", "What an attacker sees", "Cut", states, start))
    if over_noise:
        at = f" at {clean(result.curve_cut)}" if result.curve_cut else ""
        title = f"What an attacker sees{at} as noise grows"
        shown.append(Gallery("noise", title, "Noise", tuple(over_noise), 0))
    return tuple(shown)


def _point(point: Json, scales: Mapping[str, Scale]) -> str:
    told = [] if point["accuracy"] is None else [f"accuracy {PERCENT.text(point['accuracy'])}"]
    told += [
        f"{c} {scales.get(c, Scale()).text(point[c])}"
        for c in ("SSIM", "MSE")
        if point[c] is not None
    ]
    return ", ".join(told)


def _state(name: str, told: str, level: str, pictures: Json, scales: Mapping[str, Scale]) -> State:
    return State(
        name,
        told,
        level,
        tuple(_victim(which, name, pictures, scales) for which in VICTIMS),
    )


def _victim(which: str, at: str, pictures: Json, scales: Mapping[str, Scale]) -> Shown:
    values = pictures["scores"][which]
    names = [name for name in scales if values.get(name) is not None]
    names += [name for name in values if name not in names and values[name] is not None][
        : 2 - len(names)
    ]
    scores = ", ".join(
        f"{clean(name)} {scales.get(name, Scale()).text(values[name])}" for name in names
    )
    who, number = VICTIMS[which], pictures["victims"][which]
    rebuilt = f"The attacker’s reconstruction of victim {number} at {at}"
    return Shown(
        who=f"{who}: victim {number}",
        scores=", ".join(each.replace(" ", "\N{NO-BREAK SPACE}") for each in scores.split(", ")),
        truth=png(pictures["truth"][which]),
        guess=png(pictures["guess"][which]),
        truth_alt=f"Victim {number} as sent ({who.lower()})",
        guess_alt=f"{rebuilt}: {scores}" if scores else rebuilt,
    )
