"""An audit and a calibration in one folder: the curve is the audit's too, where both are of the same network, pictures
and cut.

Both commands write to the same folder by default, so what lies there may be of anything.
"""

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dpsnn.atomic import staged
from dpsnn.audit.agreement import other_code
from dpsnn.audit.result import SHOWN, AuditResult, Json, validate
from dpsnn.errors import UsageError, one_line, reading

SCHEMA = "dpsnn-calibration/1"

NAME = "calibration.json"
"""Of the file."""

OTHERS = {
    "model": "its model has other weights under the same name",
    "data": "its pictures are others under the same name",
}
"""Part → what is said where its digest is another one."""

Truth = Callable[[int], str | None]
"""Row of a victim in the data as they were given → its picture, where it is known."""


def other(audit: AuditResult, known: Json, truth: Truth) -> str:
    """Why an audit is not of what was calibrated; empty where it is.

    Args:
        audit: Whole.
        known: What stands in `calibration.json`; of an older version some may be missing.
        truth: The victims that were calibrated with.
    """
    for part, keys in (
        ("model", ("name", "source", "parameters", "image_shape")),
        ("data", ("name", "images", "surrogate", "groups")),
    ):
        theirs, ours = getattr(audit, part), known.get(part, {})
        for key in keys:
            if theirs[key] != ours.get(key):
                return (
                    f"its {part} has the {key} {_short(theirs[key])}, not {_short(ours.get(key))}"
                )
    for part, said in OTHERS.items():
        # Files of earlier versions do not say it.
        digests = {getattr(audit, part).get("digest"), known[part].get("digest")}
        if None not in digests and len(digests) > 1:
            return said
    if other_code(audit.model, known["model"]):
        return "its model has the same weights and answers otherwise: its code is another"
    cut = next((each for each in audit.cuts if each["name"] == known.get("cut")), None)
    if cut is None:
        return f"it has no cut {known.get('cut')!r}"
    if cut["shape"] != known.get("shape"):
        return (
            f"what it sends at {cut['name']} has the shape {cut['shape']}, not {known.get('shape')}"
        )
    shown = cut["pictures"]
    for which in SHOWN if shown else ():
        picture = truth(shown["victims"][which])
        if picture is not None and not _alike(picture, shown["truth"][which]):
            return "its pictures are others under the same name"
    return _trained_anew(audit, cut, known)


def _trained_anew(audit: AuditResult, cut: Json, known: Json) -> str:
    """Where the same victims were classified without noise by both, other answers are those of other weights."""
    settings, own = audit.settings, known.get("settings", {})
    same = settings["budget"] == own.get("budget") and settings["seeds"][:1] == [own.get("seed")]
    count, ours = known["data"].get("victims"), known["model"].get("accuracy")
    if not same or settings["defences"] or settings["victims_scored"] != count:
        return ""
    theirs = cut["accuracy"] and cut["accuracy"]["value"]
    if theirs is None or ours is None or abs(theirs - ours) * count <= 200:
        return ""
    return (
        f"its model is right in {theirs:.1f} % of all cases, not {ours:.1f} %: it was trained anew"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _alike(one: str, other: str) -> bool:
    """By pixels, as two versions of a library need not write the same bytes."""
    first, second = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each.partition(",")[2]))))
        for each in (one, other)
    )
    return first.shape == second.shape and bool((first == second).all())


# ---------------------------------------------------------------- the curve for the audit


def unfit(path: Path, known: Json, truth: Truth) -> str:
    """Why the audit in a file cannot have this curve; empty where it can, or where there is no such file."""
    if not path.is_file():
        return ""
    try:
        with reading(path, "an audit", "run the audit again"):
            return other(AuditResult.load(path), known, truth)
    except UsageError as error:
        return one_line(error)


def give(path: Path, content: Json, truth: Truth) -> str:
    """Write the curve into the audit in a file.

    Args:
        path: Of the audit.
        content: Of `calibration.json`.
        truth: The victims.

    Returns:
        Why not; empty where it was done, or where there is no such file. Nothing is raised: what was calibrated is
        written already.
    """
    if not path.is_file():
        return ""
    if reason := unfit(path, content, truth):
        return reason
    more = {"curve": content["curve"], "curve_cut": content["cut"]}
    try:
        audit = AuditResult.load(path).plain() | more
        validate(audit, str(path))
        write(audit, path)
    except (UsageError, OSError) as error:
        return one_line(error)
    return ""


def replaced(path: Path, cut: str, words: str) -> str:
    """What is to be said before another calibration's file is written over; empty where it is of the same promise at
    the same cut, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        theirs = str(content["cut"]), str(content["calibration"]["goal"]["words"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    if theirs == (cut, words):
        return ""
    return f"{path} is of {theirs[0]} ({theirs[1]}) and will be replaced: name another --out to keep it"


def curve_beside(audit: AuditResult, folder: str | Path) -> tuple[list[Json], str] | None:
    """The curve of the calibration in a folder, and the name of its cut, if it is of what this audit is of.

    For who writes an audit where a calibration lies: it cost hours, and is as true as it was. What does not fit is said
    on standard error.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        with reading(path, "the JSON of a calibration", "calibrate again"):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise UsageError(f"it has the schema {content['schema']!r}, not {SCHEMA!r}")
            curve, cut = content["curve"], content["cut"]
            reason = other(audit, content, _stored(content).get)
            if not reason:
                validate(audit.plain() | {"curve": curve, "curve_cut": cut}, str(path))
    except UsageError as error:
        reason = one_line(error)
    if reason:
        print(f"the audit does not get the curve of {path}: {reason}", file=sys.stderr)
        return None
    return curve, cut


def _stored(content: Json) -> dict[int, str]:
    """Row of a victim → its picture, of those that stand in a calibration."""
    pictures = [row["pictures"] for row in content["curve"] if row["pictures"]]
    return {each["victims"][which]: each["truth"][which] for each in pictures for which in SHOWN}


def write(content: Json, path: Path) -> Path:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as temporary:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")
    return path
