"""An audit and a calibration in one folder: whose curve the audit gets, and that nothing is lost over it."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import audit_example
import pytest
import torch
from test_calibrate import PIXELS, given

from dpsnn.audit import calibrate_beside as beside
from dpsnn.audit import calibrate_run
from dpsnn.audit.calibrate_result import Calibration, Shown
from dpsnn.audit.calibrate_run import calibrate_model
from dpsnn.audit.result import AuditResult, Json
from dpsnn.audit.shown import png

__all__ = ["given"]  # a fixture

SHAPE, PARAMETERS = [12], 64 * 12 + 12 + 12 * 10 + 10


def audited(**changes: Any) -> Json:
    """An audit of the network and the pictures of `given`, but for changes."""
    content = audit_example.content()
    content["model"] |= {"parameters": PARAMETERS}
    content["data"] |= {"name": "digits.npz", "images": 150, "victims": 60}
    content["settings"] |= {"victims_scored": 60, "seeds": [0]}
    content["cuts"] = content["cuts"][:1]
    content["cuts"][0] |= {"name": "enc", "shape": SHAPE, "pictures": None, "accuracy": None}
    content["recommended"] = None
    for place, value in changes.items():
        part = content["cuts"][0] if place.startswith("cut__") else content[place.split("__")[0]]
        part[place.split("__")[1]] = value
    values = math.prod(content["cuts"][0]["shape"])
    content["cuts"][0] |= {"values": values, "bytes": 4 * values}
    return content


def row(noise: float = 1.0) -> Json:
    measures = {"accuracy": None, "SSIM": 0.5, "MSE": 0.02, "naming": 0.5, "pictures": None}
    return {"noise": noise, "kind": "gaussian", **measures}


def known() -> Json:
    """What was calibrated, as it stands in its file."""
    return {
        "schema": beside.SCHEMA,
        "model": {
            "name": "net.py:make",
            "source": "net.py:make",
            "parameters": PARAMETERS,
            "image_shape": [1, 8, 8],
            "accuracy": 90.0,
            "answers": [1.0, -2.0],
        },
        "data": {
            "name": "digits.npz",
            "images": 150,
            "victims": 60,
            "surrogate": None,
            "groups": None,
        },
        "settings": {"seed": 0, "budget": "quick"},
        "cut": "enc",
        "shape": SHAPE,
        "curve": [row()],
    }


def picture(at: int) -> str:
    return png(PIXELS[at].float() / 255)


def shown(of: int) -> Json:
    """The pictures of a cut, of victims 3, 4 and 5."""
    truth = {"best": picture(3), "median": picture(4), "worst": picture(of)}
    victims = {"best": 3, "median": 4, "worst": 5}
    scores = {which: {"MSE": 0.1} for which in victims}
    return {"truth": truth, "guess": truth, "victims": victims, "scores": scores}


SAME = {"value": 90.0, "low": 40.0, "high": 95.0, "floor": 10.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cut__pictures": shown(5)},
        {"cut__accuracy": SAME},
        {"model__answers": [1.01, -2.0]},
        {"cut__accuracy": SAME | {"value": 50.0}, "settings__seeds": [1]},
        {"cut__accuracy": SAME | {"value": 50.0}, "settings__defences": ["Laplace(1)"]},
    ],
)
def test_an_audit_of_the_same_gets_the_curve(place: Path, changes: dict[str, Any]) -> None:
    path = AuditResult.of(audited(**changes)).save("audit.json")
    assert beside.unfit(path, known(), {5: picture(5)}.get) == ""
    assert beside.give(path, known(), {5: picture(5)}.get) == ""
    content = json.loads(path.read_text())
    assert content["curve"] == [row()] and content["curve_cut"] == "enc"
    assert AuditResult.load(path).curve == [row()]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"model__source": "net.py:make, weights b.pt"},
            "its model has the source 'net.py:make, w",
        ),
        ({"model__name": "other"}, "its model has the name 'other', not 'net.py:make'"),
        ({"model__parameters": 3}, "its model has the parameters 3, not 910"),
        ({"model__image_shape": [1, 9, 9]}, "its model has the image_shape"),
        ({"data__name": "others.npz"}, "its data has the name 'others.npz'"),
        ({"data__images": 151}, "its data has the images 151, not 150"),
        ({"data__surrogate": "more.npz"}, "its data has the surrogate 'more.npz', not None"),
        ({"data__groups": "subfolder"}, "its data has the groups"),
        (
            {"model__answers": [1.0, -2.03]},
            "its model has the same weights and answers otherwise: its code is another",
        ),
        ({"cut__name": "head"}, "it has no cut 'enc'"),
        ({"cut__shape": [3]}, "what it sends at enc has the shape [3], not [12]"),
        ({"cut__pictures": shown(6)}, "its pictures are others under the same name"),
        (
            {"cut__accuracy": SAME | {"value": 80.0}},
            "its model is right in 80.0 % of all cases, not 90.0 %: it was trained anew",
        ),
    ],
)
def test_an_audit_of_another_does_not(place: Path, changes: dict[str, Any], why: str) -> None:
    path = AuditResult.of(audited(**changes)).save("audit.json")
    before = path.read_bytes()
    assert beside.unfit(path, known(), {5: picture(5)}.get).startswith(why)
    assert beside.give(path, known(), {5: picture(5)}.get).startswith(why)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ['{"schema": "dpsnn-audit/0"}', "", "{", "[]", "null", '{"schema": 3}']
)
def test_an_audit_that_cannot_be_read_is_left_as_it_is(place: Path, text: str) -> None:
    path = Path("audit.json")
    assert beside.give(path, known(), {}.get) == "" and not path.exists(), "there is none"
    path.write_text(text)
    assert "audit.json" in beside.give(path, known(), {}.get)
    assert path.read_text() == text


# ---------------------------------------------------------------- the command


def found(*given: Any) -> Calibration:
    """What a calibration gives, in no time."""
    which = {"best": 0, "median": 1, "worst": 2}
    return Calibration(
        goal={"measure": "mse", "value": 0.03, "candidates": 0, "words": "a promise"},
        kind="gaussian",
        noise=1.0,
        clip=2.5,
        queries=1,
        mechanism="",
        ceiling=None,
        largest_share=None,
        asked=None,
        accuracy=None,
        considered=[],
        checked={"victims": 30, "kept": True},
        decoder=[],
        curve=[row()],
        shown=Shown(
            which,
            [{each: torch.zeros(1, 8, 8) for each in which}],
            [{each: {"MSE": 0.1} for each in which}],
        ),
    )


def calibrated(monkeypatch: pytest.MonkeyPatch) -> Json:
    monkeypatch.setattr(calibrate_run, "calibrate", found)
    path = calibrate_model("net.py:make", "digits.npz", "enc", "mse=0.03", kind="gaussian")
    content: Json = json.loads(path.read_text())
    return content


def test_what_it_was_of_is_written_down_and_the_audit_gets_the_curve(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    AuditResult.of(audited()).save("audit/audit.json")
    content = calibrated(monkeypatch)
    expected = known()
    assert content["data"].pop("own") == 90 and content["model"].pop("accuracy") is not None
    expected["model"].pop("accuracy")
    assert content["model"].pop("attacked_shape") == [1, 8, 8]
    assert len(content["model"].pop("answers")) == 6 and expected["model"].pop("answers")
    for part in ("model", "data"):
        content[part].pop("notes")
        assert len(content[part].pop("digest")) == 64
        assert content[part] == expected[part]
    for key in ("schema", "settings", "cut", "shape"):
        assert content[key] == expected[key]
    audit = json.loads(Path("audit/audit.json").read_text())
    assert audit["curve"] == content["curve"] and audit["curve_cut"] == "enc"
    # The victims are named by their rows in the data, as those of an audit are.
    (pictures,) = (each["pictures"] for each in audit["curve"])
    for which, at in pictures["victims"].items():
        assert pictures["truth"][which] == picture(at)
    said = capsys.readouterr().err
    assert "does not get" not in said and "behind a clip to 2.5" in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema": "dpsnn-audit/0"}', "has the schema 'dpsnn-audit/0'"),
        (json.dumps(audited(model__parameters=3)), "its model has the parameters 3, not 910"),
    ],
)
def test_whatever_lies_there_nothing_is_lost(
    given: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    why: str,
) -> None:
    path = Path("audit/audit.json")
    path.parent.mkdir()
    path.write_text(text)
    assert calibrated(monkeypatch)["calibration"]["noise"] == 1
    assert path.read_text() == text
    (line,) = (each for each in capsys.readouterr().err.splitlines() if "not get the curve" in each)
    assert line.startswith("audit/audit.json does not get the curve: ") and why in line


# ---------------------------------------------------------------- an audit after a calibration


def lying(content: object) -> None:
    Path("calibration.json").write_text(json.dumps(content))


def test_a_second_audit_finds_its_curve_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = AuditResult.of(audited())
    assert beside.curve_beside(audit, ".") is None and not capsys.readouterr().err
    lying(known())
    assert beside.curve_beside(audit, ".") == ([row()], "enc")
    assert beside.curve_beside(audit, place) == ([row()], "enc") and not capsys.readouterr().err


def changed(**more: Any) -> Json:
    return copy.deepcopy(known()) | more


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (changed(cut="conv"), "it has no cut 'conv'"),
        (changed(schema="dpsnn-calibration/0"), "it has the schema 'dpsnn-calibration/0'"),
        (changed(curve=[{"noise": 1}]), "is damaged"),
        (changed(curve=[row() | {"MSE": "low"}]), "MSE"),
        (changed(model={}), "its model has the name 'net.py:make', not None"),
        (changed(curve=None), "is damaged"),
        ([], "is damaged"),
    ],
)
def test_a_calibration_of_another_gives_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], content: object, why: str
) -> None:
    lying(content)
    assert beside.curve_beside(AuditResult.of(audited()), ".") is None
    said = capsys.readouterr().err.strip()
    assert said.startswith("the audit does not get the curve of calibration.json: ") and why in said
    assert "\n" not in said
