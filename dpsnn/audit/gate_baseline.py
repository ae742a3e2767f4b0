"""An audit beside an earlier one: no more leaks, nothing that was looked at then is left out, and both ask the same."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dpsnn.audit.agreement import other_code
from dpsnn.audit.gate_columns import BELOW, Column, Cut, columns, ends, shown
from dpsnn.audit.junit import Check
from dpsnn.audit.result import AuditResult

EVERYWHERE = "the audit"
"""In the place of a cut, of checks that are not of one."""

SAME = {
    "model": ("name", "image_shape", "attacked_shape", "classes"),
    "data": ("name", "own", "surrogate", "groups"),
    "settings": ("budget", "queries", "defences", "seeds"),
}
"""What must not differ: who is attacked, and how strong the attacker is. Weights may, that is what a gate is for."""

DIGESTS = {"model": "weights", "data": "pictures"}
"""What tells them from others of the same name: part → of what its digest is."""


def compared(now: AuditResult, then: AuditResult, may_lack_cuts: bool) -> Iterator[Check]:
    """Every check of an audit against an earlier one.

    Args:
        now: The audit.
        then: The earlier one.
        may_lack_cuts: Whether cuts of then may be missing.
    """
    yield _comparable(now, then)
    known = columns(then.measures) | columns(now.measures)
    cuts = {cut["name"]: cut for cut in now.cuts}
    for earlier in then.cuts:
        cut = cuts.get(earlier["name"])
        if cut is not None:
            yield _judged(earlier)
            yield _attacked(cut, earlier)
            yield from _leaks(cut, earlier, known)
        elif not may_lack_cuts:
            why = "it is not in this audit, so that nothing is known of it; --allow_missing_cuts lets that pass"
            yield Check(earlier["name"], "the baseline's cut is audited", False, why)


def _comparable(now: AuditResult, then: AuditResult) -> Check:
    digests = {
        part: (getattr(now, part).get("digest"), getattr(then, part).get("digest"))
        for part in DIGESTS
    }
    # What is the same by its digest may lie elsewhere by now.
    same = {part for part, (new, old) in digests.items() if new is not None and new == old}
    differ = [
        f"{part}.{name} is {_told(new)}, was {_told(old)}"
        for part, names in SAME.items()
        for name in names
        for new, old in [(getattr(now, part)[name], getattr(then, part)[name])]
        if new != old and not (name == "name" and part in same)
    ]
    said = [
        f"whether the {DIGESTS[part]} are the same is not known, as not both audits say it"
        for part, both in digests.items()
        if None in both
    ]
    if None not in digests["data"] and len({*digests["data"]}) > 1:
        differ.append("the pictures are others under the same name: audit both on the same ones")
    if None not in digests["model"] and len({*digests["model"]}) > 1:
        said.append("the weights are others than then")
    if other_code(now.model, then.model):
        said.append(
            "the weights are those of then, and the model answers otherwise: its code is another"
        )
    if more := _stronger(now, then):
        said.append(
            f"{', '.join(more)} found something now and not then: more may be found for that alone"
        )
    rule = "comparable with the baseline"
    return Check(EVERYWHERE, rule, not differ, "; ".join([*differ, *said]))


def _stronger(now: AuditResult, then: AuditResult) -> list[str]:
    """Attacks that came to an end now at a cut at which they did not then, as where an earlier version lacks them."""
    before = {cut["name"]: _ended(cut) for cut in then.cuts}
    return sorted(
        {label for cut in now.cuts for label in _ended(cut) - before.get(cut["name"], _ended(cut))}
    )


def _ended(cut: Cut) -> set[str]:
    return {row["label"] for row in cut["attacks"] if row["status"] == "ok"}


def _told(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _judged(earlier: Cut) -> Check:
    """Beside numbers of too few victims nothing is worse, as their intervals hold everything."""
    verdict = earlier["verdict"]
    known = verdict["level"] != "unknown"
    said = "" if known else f"then: {verdict['sentence']} Make a baseline that says more"
    return Check(earlier["name"], "the baseline's verdict is known", known, said)


def _attacked(cut: Cut, earlier: Cut) -> Check:
    """What came to an end then must do so now."""
    rows = {row["label"]: row for row in cut["attacks"]}
    lacking = []
    for old in earlier["attacks"]:
        row = rows.get(old["label"])
        if old["status"] == "ok" and row is None:
            lacking.append(f"{old['label']} ran then, and is not there now")
        elif old["status"] == "ok" and row is not None and row["status"] != "ok":
            lacking.append(f"{old['label']} ran then, and now: {row['status']} ({row['reason']})")
    rule = "every attack of the baseline ran"
    return Check(cut["name"], rule, not lacking, "; ".join(lacking))


def _leaks(cut: Cut, earlier: Cut, known: Mapping[str, Column]) -> Iterator[Check]:
    """Worse only where chance does not explain the difference."""
    for column in known.values():
        then, now = column.of(earlier), column.of(cut)
        # Accuracy is no leakage.
        if column.name == "accuracy" or then is None or then["value"] is None:
            continue
        rule = f"{column.name} no worse than in the baseline"
        if now is None or now["value"] is None:
            was = f"{column.name} was {shown(then)} and is not measured now"
            yield Check(cut["name"], rule, False, was)
        elif (among := now.get("candidates")) != (were := then.get("candidates")):
            why = f"{column.name} is among {among} candidates, and was among {were}: give as many victims as then"
            yield Check(cut["name"], rule, False, why)
        else:
            yield Check(cut["name"], rule, *_beside(now, then, column))


def _beside(now: Mapping[str, Any], then: Mapping[str, Any], column: Column) -> tuple[bool, str]:
    """Whether it has not grown by more than the interval of the difference, which is that of two independent values.

    Both audits may be of the same victims, and then it is wider than need be.
    """
    (low, high), (old_low, old_high) = ends(now), ends(then)
    if column.worse == BELOW:
        grown, chance = then["value"] - now["value"], (high - now["value"], then["value"] - old_low)
    else:
        grown, chance = now["value"] - then["value"], (now["value"] - low, old_high - then["value"])
    return grown <= math.hypot(*chance), f"{column.name} is {shown(now)}, was {shown(then)}"
