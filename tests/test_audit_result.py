"""The file of an audit: what is written can be read, and what is missing or wrong is named with its place."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from audit_example import content, example

from dpsnn.audit.agreement import beyond
from dpsnn.audit.result import NAME, SCHEMA, AuditResult, Contradictory, finite
from dpsnn.defences import DefenceList
from dpsnn.defences.noise import GaussianNoise
from dpsnn.errors import UsageError
from dpsnn.evaluation.bounds import Bounds
from dpsnn.metrics.squared_error import mse
from dpsnn.target import Target


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("cuts", 0, "weights_share", value=1.2), r"weights_share is 1.2; .* in \[0, 1\]"),
        (_set("cuts", 0, "flops_share", value=-0.1), r"flops_share is -0.1; .* in \[0, 1\]"),
        (_change("cuts", 0, "accuracy", high=120.0), r"accuracy.high is 120.0; .* in \[0, 100\]"),
        (_change("cuts", 0, "reidentified", high=1.5), r"reidentified.high is 1.5; .* in \[0, 1\]"),
        (_set("cuts", 0, "guarantees", "naming", value=5.3), r"naming is 5.3; .* in \[0, 1\]"),
        (_set("cuts", 0, "guarantees", "epsilon", value=-1), r"epsilon is -1; .* 0 or more"),
        (_set("cuts", 0, "attacks", 0, "seconds", value=-1), r"seconds is -1; .* 0 or more"),
        (_set("curve", value=[{**POINT, "pictures": None, "naming": 2}]), r"naming is 2; .* in"),
        (_set("data", "victims", value=101), "data.victims is 101, and there are 100 images"),
        (_set("data", "near_duplicates", value=101), "near_duplicates is 101, and there are 100"),
        (_set("settings", "victims_scored", value=41), "victims_scored is 41 of 40 victims"),
        (_set("settings", "queries", value=0), "queries is 0; each picture is sent"),
        (_set("settings", "seeds", value=[1, 1]), r"seeds are \[1, 1\]; they must differ"),
        (_set("model", "attacked_shape", value=[1, 9, 8]), r"attacked_shape is \[1, 9, 8\], of"),
        (_set("cuts", 0, "bytes", value=1000), "256 values and 1000 bytes"),
        (_set("cuts", 1, "shape", value=[4, 8]), r"cuts\[1\] has the shape \[4, 8\], 256 values"),
        (_set("cuts", 0, "attacks", 0, "victims", value=41), "victims is 41, and 40 victims were"),
        (_set("cuts", 0, "attacks", 1, "label", value="inversion"), "two of the same label"),
        (_set("cuts", 0, "attacks", 0, "reason", value="none"), "a success and gives a reason"),
        (_set("cuts", 0, "attacks", 0, "cause", value="failed"), "a success and gives a reason"),
        (_change("cuts", 0, "strongest", "SSIM", by=["odd"]), "SSIM.by is 'odd', which is no"),
        (_change("cuts", 0, "strongest", "SSIM", tried=4), "of 4 attacks and 40 victims; there"),
        (_change("cuts", 0, "strongest", "SSIM", victims=41), "of 2 attacks and 41 victims; there"),
        (_change("cuts", 0, "strongest", "MSE", value=-0.1, low=-0.2), "MSE.value is -0.1; MSE"),
        (_change("cuts", 0, "strongest", "SSIM", value=1.5, high=2), r"lies in \[-1, 1\]"),
        (_change("cuts", 0, "gains", "MSE", value=1.5), "gains.MSE.value is 1.5; nobody"),
        (_change("cuts", 1, "gains", "MSE", value=0.6), "level is 'floor', and gains.MSE.value is"),
        (_change("cuts", 0, "distribution", column="PSNR"), "column is 'PSNR', which measures"),
        (_change("cuts", 0, "distribution", "quantiles", **{"0.5": 0.0}), "quantiles fall"),
        (_change("cuts", 0, "distribution", worst_victim=100), "row of a victim is 100, and"),
        (_set("cuts", 0, "pictures", "victims", "best", value=100), "row of a victim is 100, and"),
        (_set("cuts", 0, "by_class", 0, "victims", value=21), "by_class has 41 victims, and 40"),
        (_set("cuts", 0, "reidentified", "candidates", value=41), "candidates is 41, and 40 were"),
        (_set("cuts", 0, "guarantees", "naming", value=0.1), "naming is 0.1, and 0.9 of 40 were"),
        (
            _set("cuts", 1, "bounds", value={"mse": 0.2, "share": 1.2, "named": None, "n": 40}),
            "bounds.mse is 0.2, and the strongest attack has 0.069, which is below it",
        ),
        (_set("cuts", 1, "verdict", "level", value="unknown"), "of which nothing is known"),
        (_set("recommended", "cut", value="conv1"), "'conv1', and less leaks at 'conv2'"),
        (_set("cuts", 0, "verdict", "level", value="floor"), "gains.MSE.value is 0.9"),
        (
            lambda whole: whole["cuts"][0].update(gains={}, verdict={"level": "floor", "sentence": ""}),
            "'floor', and gains.MSE.value is 0.9",
        ),
        (_change("cuts", 1, "reidentified", value=0.9, low=0.8), "and reidentified.low is 0.8"),
        (
            _change("cuts", 0, "strongest", "MSE", value=0.06, low=0.057, high=0.063),
            r"ridge regression has 0.005, which leaks more",
        ),
        (_change("cuts", 0, "strongest", "MSE", best_of_each=0.06), "is 0.06, which leaks less"),
        (
            _change("cuts", 0, "strongest", "SSIM", by=["ridge regression"], value=0.89),
            "SSIM.value is 0.89, and that of ridge regression, who it is by, is 0.9",
        ),
        (_set("curve_cut", value="conv9"), "curve_cut is 'conv9', which is no cut"),
        (_set("curve", value=2 * [{**POINT, "pictures": None}]), "two rows for the noise 1"),
        (
            _set("curve", value=[{**POINT, "noise": n, "pictures": None, "naming": n} for n in (0.1, 0.2)]),
            "curve has naming 0.2 for the noise 0.2, and 0.1 for less of it",
        ),
    ],
)  # fmt: skip
def test_numbers_that_contradict_each_other_are_refused(
    change: Callable[[Any], None], said: str
) -> None:
    whole = content()
    change(whole)
    with pytest.raises(UsageError, match=said):
        AuditResult.of(whole, "x.json")


def test_what_chance_explains_is_no_contradiction() -> None:
    """A bound of the very victims a little above what was measured, and some named more than are promised."""
    whole = content()
    whole["cuts"][1]["bounds"] = {"mse": 0.08, "share": 1.16, "named": 0.4, "n": 40}
    whole["cuts"][1]["guarantees"]["naming"] = 0.05
    assert beyond(0.9, 0.1, 40) and not beyond(0.1, 0.05, 40) and not beyond(0.1, 0.1, 0)
    AuditResult.of(whole)


@pytest.mark.parametrize("count", [2, 4, 40])
def test_the_best_there_is_may_be_taken_in_by_the_noise(count: int) -> None:
    """Victims as far from their mean as one another: every error of who guesses it is the same, and the interval has no
    width, while who knows the victims is right about some, and about some as wrong as can be."""
    images = torch.eye(count).view(count, 1, 1, count)
    target = replace(
        Target.of_client(lambda given: given.flatten(1), (1, 1, count)),
        mechanism=DefenceList([GaussianNoise(1.0)]),
    )
    guess = images.mean(0).expand_as(images)
    error = float(mse(guess, images).mean())
    whole, above = content(), 0
    cut = whole["cuts"][1]
    cut["gains"], cut["attacks"] = {}, cut["attacks"][:1]
    whole["measures"][0]["floor"] = error
    cut["verdict"]["level"], whole["recommended"] = "partly", None
    best = {"value": error, "low": error, "high": error, "best_of_each": error, "tried": 1}
    cut["strongest"] = {"MSE": {**cut["strongest"]["MSE"], **best, "victims": count}}
    cut["attacks"][0]["measures"] = {}
    for seed in range(20):
        torch.manual_seed(seed)
        found = Bounds(target, target.encode(images), images, 1)
        found.hear(target.transmit(target.encode(images)), guess)
        cells = found.cells()
        cut["bounds"] = {"mse": cells["MSEBound"], "share": 1, "named": 0.5, "n": count}
        above += cut["bounds"]["mse"] > error + 1e-6
        AuditResult.of(whole)
    assert above, "it happens"


def test_where_there_is_little_to_find_rounding_is_much_of_it() -> None:
    whole = content()
    whole["cuts"][0]["gains"]["SSIM"] = {
        **{"value": 1.002, "low": None, "high": None},
        **{"victims": 40, "floor": 1 - 1e-4},
    }
    AuditResult.of(whole)
    whole["cuts"][0]["gains"]["SSIM"]["floor"] = 0.5
    with pytest.raises(UsageError, match="gains.SSIM.value is 1.002; nobody gets more than all"):
        AuditResult.of(whole)


def test_what_contradicts_itself_is_kept_under_a_name_that_says_so(tmp_path: Path) -> None:
    """Hours are not lost at the end, an audit of before stays, and nothing takes the file for one."""
    path, odd = tmp_path / "audit.json", tmp_path / "audit.contradictory.json"
    before = example().save(path).read_text()
    wrong = replace(example(), recommended={"cut": "nowhere", "reason": ""})
    with pytest.raises(
        Contradictory, match="no cut; no audit finds that.*contradictory.json"
    ) as at:
        wrong.save(path)
    assert at.value.result == wrong and path.read_text() == before
    assert json.loads(odd.read_text()) == wrong.plain()
    with pytest.raises(UsageError, match="'nowhere', which is no cut"):
        AuditResult.load(odd)
    with pytest.raises(Contradictory) as without:
        wrong.checked()
    assert without.value.result == wrong
    example().save(path)
    assert not odd.exists()


def test_files_of_before_are_read() -> None:
    whole = content()
    del whole["curve_cut"], whole["model"]["notes"], whole["model"]["no_cuts"]
    for cut in whole["cuts"]:
        del cut["gains"]
        for row in cut["attacks"]:
            del row["cause"], row["learns"], row["diverged"]
    assert AuditResult.of(whole).curve_cut is None


def test_an_end_of_an_interval_may_be_unknown_and_rounding_is_no_fall() -> None:
    whole = content()
    whole["cuts"][0]["strongest"]["MSE"] |= {"value": None, "high": None}
    whole["cuts"][0]["strongest"]["SSIM"] |= {"value": 3 * 0.3, "low": 0.9, "high": 0.9}
    AuditResult.of(whole)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufffe"])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=str(path)):
        AuditResult.load(path)
    with pytest.raises(UsageError, match="there is no"):
        AuditResult.load(tmp_path / "other.json")


def test_names_that_are_not_utf8_are_spelled_out(tmp_path: Path) -> None:
    """Such as of a picture in a note: what took hours is not lost in the end."""
    name = os.fsdecode(b"caf\xe9.jpg")
    result = example()
    result = replace(result, data={**result.data, "notes": [f"left out: {name}"]})
    read = AuditResult.load(result.save(tmp_path / NAME))
    assert read.data["notes"] == ["left out: caf\\udce9.jpg"] and read == result.checked()
    text = (tmp_path / NAME).read_text().replace("left out", "left \\ud800 out")
    (tmp_path / NAME).write_text(text)
    with pytest.raises(UsageError, match="surrogates not allowed"):
        AuditResult.load(tmp_path)


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
