"""What is promised at a cut, as it is and as it would be with a clip enforced; and what nobody can beat."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256

import torch

from dpsnn.audit.agreement import beyond
from dpsnn.audit.identity import as_bytes
from dpsnn.audit.intervals import binomial, estimate
from dpsnn.audit.result import Json
from dpsnn.audit.scoring import CANDIDATES
from dpsnn.audit.wire import CHUNK, Wire
from dpsnn.defences.mechanism import naming
from dpsnn.defences.values import Clamp, Clip, Map, Values
from dpsnn.errors import NoLikelihood
from dpsnn.evaluation.bounds import PICTURES, Beaten, bounds_of
from dpsnn.metrics.base import Cells

USUAL = 0.99
"""Quantile of what own pictures give at which a clip is set: it leaves nearly all as they are."""

ROUNDING = 1e-6
"""By how much, of the largest value, two codes differ that are not the same but for rounding."""

TINY = float(torch.finfo(torch.double).tiny)

PATIENCE = 10**10
"""Pairs of values of victims that may be compared to bound what can be known, about."""


def guarantees(wire: Wire) -> Json:
    """ε, δ, the share of people that anybody can name, and the bound for unbiased attackers, in numbers and words."""
    candidates = max(2, min(CANDIDATES, wire.strangers))
    if wire.whole is None:
        said = "no guarantee: only pairs of images and what was sent of them are given"
        return _none("not known", candidates, said)
    target = wire.whole
    epsilon, delta = target.guarantee(wire.queries)
    share = target.naming(candidates, wire.queries)
    clipped = _clipped(wire, candidates)
    return {
        "set": described(target.values),
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "delta": delta,
        "naming": share,
        "candidates": candidates,
        **_without_bias(wire),
        "words": _words(wire, epsilon, delta, share, candidates),
        "with_clip": clipped,
    }


def _without_bias(wire: Wire) -> Json:
    """1/dFIL with its interval over own pictures; none where it is not known, or of one of them nothing is told."""
    assert wire.whole is not None
    try:
        found = wire.whole.unbiased_bound(wire.client_images[:PICTURES], wire.queries).double()
    except (NoLikelihood, RuntimeError):  # RuntimeError: the client has no gradient
        found = torch.empty(0)
    if not len(found) or not bool(found.isfinite().all()):
        return {"dfil": None, "dfil_low": None, "dfil_high": None}
    ends = estimate([found])
    low = None if ends["low"] is None else max(0.0, ends["low"])
    return {"dfil": ends["value"], "dfil_low": low, "dfil_high": ends["high"]}


def _none(values: str, candidates: int, words: str) -> Json:
    return {
        "set": values,
        "epsilon": None,
        "delta": None,
        "naming": None,
        "candidates": candidates,
        "dfil": None,
        "dfil_low": None,
        "dfil_high": None,
        "words": words,
        "with_clip": None,
    }


def described(values: Values) -> str:
    """The set in which activations lie, in words."""
    if math.isfinite(values.low) and math.isfinite(values.high):
        return f"each of {values.dimension} values in [{values.low:g}, {values.high:g}]"
    if math.isfinite(values.apart_l2()):
        return (
            f"{values.dimension} values, any two activations at most {values.apart_l2():.3g} apart"
        )
    return f"{values.dimension} values, not limited"


def _words(wire: Wire, epsilon: float, delta: float | None, share: float, candidates: int) -> str:
    assert wire.whole is not None
    if not wire.noisy:
        return "no guarantee: nothing random is added to what is sent"
    if math.isinf(epsilon) and share >= 1:
        return (
            f"no guarantee: {described(wire.whole.values)}, and no noise covers what nothing limits; enforce a clip"
            " before the noise"
        )
    of = f" at delta {delta:g}" if delta else ""
    often = f" sent {wire.queries} times each" if wire.queries > 1 else ""
    return (
        f"epsilon {epsilon:.3g}{of}; of {candidates} equally likely pictures{often} nobody names more than"
        f" {100 * share:.1f} of 100 rightly, whatever he knows"
    )


def _clipped(wire: Wire, candidates: int) -> Json | None:
    """The best promise that a clip to what own pictures usually give would make with the same noise."""
    if (
        not wire.noisy or wire.clear is None
    ):  # what a client sends that never answers alike has no usual size
        return None
    assert wire.whole is not None
    steps = wire.whole.mechanism.mechanism()
    rows = wire.activations.flatten(1)
    norm = float(torch.quantile(rows.norm(dim=1), USUAL))
    largest = float(torch.quantile(rows.abs().amax(1), USUAL))

    def ways() -> Iterator[tuple[Map, float, str]]:
        if norm > 0:
            yield Clip(norm), norm, f"clipped to an L2 norm of {norm:.3g}"
        if largest > 0:
            yield Clamp(largest), largest, f"each value clamped to ±{largest:.3g}"

    found = [
        (naming([clip, *steps], wire.whole.values, candidates, wire.queries), bound, said)
        for clip, bound, said in ways()
    ]
    if not found:
        return None
    share, bound, said = min(found, key=lambda each: each[0])
    return {
        "bound": bound,
        "naming": share,
        "words": (
            f"with activations {said} before the noise, which leaves 99 of 100 own pictures as they are, nobody names"
            f" more than {100 * share:.1f} of 100 among {candidates}"
        ),
    }


def kept(promised: Json, found: Json | None, beaten: str) -> tuple[Json, str]:
    """The guarantees, and what speaks against them; where anything does, none is left.

    Args:
        promised: As of `guarantees`.
        found: Who was re-identified.
        beaten: As of `bounds`.
    """
    share = promised["naming"]
    looked = int(found.get("victims") or found["candidates"]) if found else 0
    if found and share is not None and beyond(found["value"], share, looked):
        more = (
            f"{100 * found['value']:.3g} of 100 were named among {found['candidates']}, and {100 * share:.3g} at most"
            " are promised"
        )
        beaten = f"{beaten}; {more}" if beaten else more
    if not beaten:
        return promised, ""
    words = "no guarantee: what was found contradicts what the mechanism promises, as a flag says"
    return _none(promised["set"], promised["candidates"], words), beaten


def bounds(wire: Wire, guesses: Mapping[str, torch.Tensor]) -> tuple[Json | None, str]:
    """What no attacker can beat on these victims, and what speaks against it; None where no known noise is added.

    Args:
        wire: What is heard.
        guesses: Attack → its guesses of all victims, or of the first ones, two at least; each is watched. Of the first
            ones the least error is that of somebody who knows that it is one of these.
    """
    if wire.target is None or wire.clear is None or not wire.noisy or not guesses:
        return None, ""
    found: list[tuple[Cells, torch.Tensor]] = []
    beaten: list[str] = []
    # Those of all victims first: what is worked out for them serves all, and is let go for fewer.
    for name, each in sorted(guesses.items(), key=lambda pair: -len(pair[1])):
        try:
            watched = _watched(wire, each)
        except Beaten as error:
            beaten.append(f"{name}: {error}")
            continue
        if watched is not None:
            found.append(watched)
    if beaten or not found:
        return None, "; ".join(beaten)
    most = max(_counted(cells) for cells, _ in found)
    among = [each for each in found if _counted(each[0]) == most]
    closest, least = max(among, key=lambda each: _share(each[0]))
    right, ends = closest["NamedBound"], estimate([least.double()], wire.people)
    return {
        "mse": closest["MSEBound"],
        "low": ends["low"],
        "high": ends["high"],
        "share": closest["BoundShare"],
        "named": None if right is None else right / 100,  # type: ignore[operator]
        "n": closest["BoundN"],
    }, ""


def matched(wire: Wire, limits: Json | None) -> Json | None:
    """The share of victims that who holds the candidates names: he sends them himself, and compares what is heard.

    Candidates are pictures of different people. With noise it is the best that anybody can, as of `bounds`. Without,
    everybody is named whose code no other candidate has, but for rounding. It is not known of pairs, of noise without a
    likelihood, nor of a client that wavers.
    """
    if limits is not None and limits["named"] is not None:
        share, count = limits["named"], limits["n"]
        if wire.people is not None and wire.strangers > 1:
            watched = _watched(wire, torch.zeros_like(wire.victims[: wire.strangers]))
            assert watched is not None
            cells, _ = watched
            share, count = cells["NamedBound"] / 100, _counted(cells)  # type: ignore[operator]
    elif wire.target is None or wire.noisy or wire.wavers:
        return None
    else:
        codes = wire.heard[0, : min(CANDIDATES, wire.strangers)].flatten(1)
        low, high = (float(end) for end in codes.aminmax())
        mean, step = codes.mean(0, dtype=torch.double), max(ROUNDING * max(-low, high), TINY)
        # One by one, and digests of them: feature maps of a thousand pictures are large.
        rows = [
            sha256(as_bytes(((c.double() - mean) / step).round() + 0.0)).digest() for c in codes
        ]
        count, same = len(rows), Counter(rows)
        share = sum(same[row] == 1 for row in rows) / max(1, count)
    if count < 2:
        return None
    low, high = binomial(share, count)
    return {"value": share, "low": low, "high": high, "candidates": count}


def _counted(cells: Cells) -> int:
    count = cells["BoundN"]
    assert isinstance(count, int)
    return count


def _share(cells: Cells) -> float:
    share = cells["BoundShare"]
    return share if isinstance(share, float) else 0.0


def _watched(wire: Wire, guesses: torch.Tensor) -> tuple[Cells, torch.Tensor] | None:
    """The bounds beside what one attack finds, and the least error of each victim; None where there are none.

    Raises:
        Beaten: If it is better than anybody can be.
    """
    assert wire.target is not None and wire.clear is not None
    each = max(1, wire.clear[0].numel() * wire.queries)
    count = max(2, min(len(guesses), math.isqrt(PATIENCE // each)))
    found = bounds_of(wire.target, wire.clear[:count], wire.victims[:count], wire.queries)
    if found is None:
        return None
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        found.hear(wire.heard[:, start:stop], guesses[start:stop])
    return found.cells(), torch.cat(found.least)
