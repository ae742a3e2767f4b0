"""The file of an audit: what is written can be read, and what is missing or wrong is named with its place."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_example import content, example

from dpsnn.audit.result import SCHEMA, AuditResult, finite
from dpsnn.errors import UsageError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = example().save(tmp_path / "deep" / "audit.json")
    assert json.loads(path.read_text()) == content()
    assert AuditResult.load(path) == AuditResult.load(path.parent) == example()
    assert [each.name for each in path.parent.iterdir()] == ["audit.json"]


def _set(*keys: Any, value: Any) -> Callable[[Any], None]:
    def change(whole: Any) -> None:
        for key in keys[:-1]:
            whole = whole[key]
        whole[keys[-1]] = value

    return change


def _drop(*keys: Any) -> Callable[[Any], None]:
    def change(whole: Any) -> None:
        for key in keys[:-1]:
            whole = whole[key]
        del whole[keys[-1]]

    return change


def _change(*keys: Any, **values: Any) -> Callable[[Any], None]:
    def change(whole: Any) -> None:
        for key in keys:
            whole = whole[key]
        whole |= values

    return change


POINT = {"noise": 1.0, "kind": "gaussian", "accuracy": 90, "SSIM": 0.5, "MSE": 0.1, "naming": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("cuts", 1, "verdict"), r"cuts\[1\] lacks 'verdict'"),
        (_drop("schema"), "names no schema"),
        (_set("schema", value="dpsnn-audit/9"), "schema 'dpsnn-audit/9', not 'dpsnn-audit/1'"),
        (_set("cuts", 0, "attacks", 2, "status", value="odd"), r"attacks\[2\].status is \"odd\""),
        (_set("cuts", 0, "attacks", 2, "reason", value=None), "gives no reason"),
        (_set("made", "seconds", value="long"), 'made.seconds is "long"; it must be a finite'),
        (_set("made", "seconds", value=True), "made.seconds is true"),
        (_set("data", "own", value=-1), "data.own is -1; it must be a whole number"),
        (_set("cuts", 0, "strongest", "MSE", "over", value="days"), 'MSE.over is "days"'),
        (_set("cuts", 0, "attacks", 0, "measures", value={"PSNR": {}}), "measures.PSNR lacks"),
        (_set("measures", value=[]), r"cuts\[0\] has the measure 'MSE'"),
        (_set("recommended", "cut", value="nowhere"), "'nowhere', which is no cut"),
        (_set("cuts", 1, "name", value="conv1"), "two cuts have the same name"),
        (_set("cuts", 0, "pictures", "guess", "worst", value="x"), 'guess.worst is "x"'),
        (_set("cuts", value={}), "cuts is {}; it must be a list"),
        (
            _set("made", "seconds", value=10**400),
            r"made.seconds is 1000.*; it must be a finite number",
        ),
        (_set("made", "seconds", value=10**5000), r"made.seconds is too large to be shown \(int\)"),
        (_set("cuts", 0, "bytes", value=10**400), "bytes is 1000.*; it must be a whole number"),
        (_change("cuts", 0, "strongest", "SSIM", low=0.95, high=0.8), "must not fall"),
        (_change("cuts", 0, "strongest", "SSIM", value=0.1), "low 0.87, value 0.1, high 0.93"),
        (_change("cuts", 0, "accuracy", value=99.0), "accuracy is low 79.6, value 99.0"),
        (_change("cuts", 0, "reidentified", low=0.99), "reidentified is low 0.99"),
        (_change("cuts", 0, "strongest", "MSE", low=None, high=None, over={}), "MSE.over is {}"),
        (_change("cuts", 0, "strongest", "MSE", low=None, high=None, over=5), "MSE.over is 5"),
        (
            lambda whole: whole["measures"].append(whole["measures"][0]),
            "two measures have the same",
        ),
        (_set("curve", value=[{**POINT, "pictures": {}}]), r"curve\[0\].pictures lacks 'truth'"),
        (_set("curve", value=[{**POINT, "pictures": 7}]), r"curve\[0\].pictures is 7"),
        (_set("curve_cut", value=7), "curve_cut is 7; it must be a text"),
        (_set("model", "notes", value="none"), 'model.notes is "none"; it must be a list'),
        (_set("model", "no_cuts", value=[{"name": "a"}]), r"no_cuts\[0\] lacks 'reason'"),
        (_set("cuts", 0, "attacks", 2, "cause", value="odd"), 'cause is "odd"; it must be one of'),
        (_set("cuts", 0, "gains", value={"MSE": {}}), "gains.MSE lacks 'value'"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: Callable[[Any], None], said: str) -> None:
    whole = content()
    change(whole)
    with pytest.raises(UsageError, match=said):
        AuditResult.of(whole, "x.json")


def test_files_of_before_are_read() -> None:
    whole = content()
    del whole["curve_cut"], whole["model"]["notes"], whole["model"]["no_cuts"]
    for cut in whole["cuts"]:
        del cut["gains"]
        for row in cut["attacks"]:
            del row["cause"], row["learns"]
    assert AuditResult.of(whole).curve_cut is None


def test_an_end_of_an_interval_may_be_unknown_and_rounding_is_no_fall() -> None:
    whole = content()
    whole["cuts"][0]["strongest"]["MSE"] |= {"value": None, "high": None}
    whole["cuts"][0]["strongest"]["SSIM"] |= {"value": 0.1 + 0.2, "low": 0.3, "high": 0.3}
    AuditResult.of(whole)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufffe"])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=str(path)):
        AuditResult.load(path)
    with pytest.raises(UsageError, match="there is no"):
        AuditResult.load(tmp_path / "other.json")


def test_what_is_no_number_is_none() -> None:
    assert finite({"a": (1.0, math.inf), "b": [math.nan, True, None]}) == {
        "a": [1.0, None],
        "b": [None, True, None],
    }


def test_a_cut_by_its_name() -> None:
    assert example().schema == SCHEMA
    assert example().cut("conv2")["verdict"]["level"] == "floor"
    with pytest.raises(UsageError, match=r"no cut 'conv3'; choose from \['conv1', 'conv2'\]"):
        example().cut("conv3")
