"""An audit beside an earlier one: what is worse fails, and so does what is gone or cannot be compared."""

from pathlib import Path
from typing import Any

import pytest
from audit_example import NEAREST, changed, content, left_out, whole

from dpsnn.audit.gate import Gate, checks, gate
from dpsnn.audit.result import AuditResult
from dpsnn.errors import GateFailed, UsageError

Json = dict[str, Any]


def failing(made: Json, baseline: Json | None = None) -> list[tuple[str, str]]:
    old = AuditResult.of(baseline) if baseline else None
    found = gate(AuditResult.of(made), baseline=old)
    return [(each.cut, each.rule) for each in found]


def test_an_attack_that_was_not_there_then_is_said() -> None:
    """As of an earlier version: it finds more without anything being worse than it was."""
    old = left_out(whole(), NEAREST, reason="does not apply", cause="inapplicable")
    label = old["cuts"][1]["attacks"][NEAREST]["label"]

    def said(then: Json) -> str:
        found = checks(AuditResult.of(whole()), baseline=AuditResult.of(then))
        return next(each.said for each in found if each.rule == "comparable with the baseline")

    assert f"{label} found something now and not then: more may be" in said(old)
    assert "not then" not in said(whole())


@pytest.mark.parametrize(
    "column, value, half, worse",
    [
        ("SSIM", 0.17, 0.03, True),  # then 0.07 to 0.13, now 0.14 to 0.20
        (
            "SSIM",
            0.17,
            0.05,
            True,
        ),  # 0.12 to 0.22: the intervals meet, and 0.07 is more than √(0.05² + 0.03²)
        ("SSIM", 0.15, 0.05, False),
        ("SSIM", 0.02, 0.01, False),  # better
        ("MSE", 0.06, 0.005, True),  # then 0.066 to 0.072, now 0.055 to 0.065
        ("MSE", 0.06, 0.007, True),
        ("MSE", 0.062, 0.007, False),
        ("MSE", 0.09, 0.001, False),
    ],
)
def test_only_what_is_worse_beyond_the_interval_of_the_difference_fails(
    column: str, value: float, half: float, worse: bool
) -> None:
    expected = [("conv2", f"{column} no worse than in the baseline")] if worse else []
    assert failing(changed(column, value, half), baseline=whole()) == expected


def test_an_audit_passes_beside_itself() -> None:
    assert failing(whole(), baseline=whole()) == []


def test_values_without_intervals_are_compared_as_they_are() -> None:
    old, new = changed("SSIM", 0.1, 0), changed("SSIM", 0.11, 0)
    for made in (old, new):
        made["cuts"][1]["strongest"]["SSIM"] |= {"low": None, "high": None}
    assert failing(new, baseline=old) == [("conv2", "SSIM no worse than in the baseline")]
    assert failing(old, baseline=new) == []


def test_re_identification_is_compared_among_as_many_candidates_alone() -> None:
    new, old = whole(), whole()
    for made, low in ((old, 0.01), (new, 0.5)):
        made["cuts"][1]["reidentified"] |= {"value": low, "low": low, "high": low}
    worse = [("conv2", "reidentified no worse than in the baseline")]
    assert failing(new, baseline=old) == worse
    # Among others it is not known whether it is worse, even where it is less.
    old["data"] |= {"images": 2500, "victims": 1000}
    old["settings"]["victims_scored"] = old["cuts"][1]["reidentified"]["candidates"] = 1000
    assert failing(old, baseline=new) == worse
    (found,) = gate(AuditResult.of(new), baseline=AuditResult.of(old))
    assert "is among 40 candidates, and was among 1000" in found.said


def test_a_measure_that_is_gone_fails() -> None:
    new = whole()
    del new["cuts"][0]["strongest"]["MSE"]
    (found,) = gate(AuditResult.of(new), baseline=AuditResult.of(whole()))
    assert found.said == "MSE was 0.005 (0.002 to 0.008) and is not measured now"


def test_a_measure_that_no_cut_has_any_more_fails() -> None:
    new = whole()
    new["measures"] = [each for each in new["measures"] if each["column"] != "SSIM"]
    for cut in new["cuts"]:
        for of in (cut["strongest"], *(row["measures"] for row in cut["attacks"])):
            del of["SSIM"]
    rule = "SSIM no worse than in the baseline"
    assert failing(new, baseline=whole()) == [("conv1", rule), ("conv2", rule)]


@pytest.mark.parametrize("gone", [True, False])
def test_an_attack_that_ran_then_runs_now(gone: bool) -> None:
    new = whole()
    if gone:
        del new["cuts"][1]["attacks"][NEAREST]
        for found in new["cuts"][1]["strongest"].values():
            found["tried"] = 1
    else:
        left_out(new, NEAREST, cause="inapplicable", reason="it asks the client")
    assert failing(new) == []
    (found,) = gate(AuditResult.of(new), baseline=AuditResult.of(whole()))
    assert (found.cut, found.rule) == ("conv2", "every attack of the baseline ran")
    ended = "is not there now" if gone else "now: skipped (it asks the client)"
    assert found.said == f"nearest own image ran then, and {ended}"
    # One that never ran is missed by nobody.
    assert failing(whole(), baseline=content()) == []


@pytest.mark.parametrize(
    "part, name, value, said",
    [
        ("model", "name", "other.py:make", "model.name is other.py:make, was net.py:make"),
        ("model", "image_shape", [3, 32, 32], "model.image_shape is 3, 32, 32, was 1, 8, 8"),
        ("model", "classes", None, "model.classes is none, was 2"),
        ("data", "name", "else", "data.name is else, was pictures"),
        ("data", "own", 5, "data.own is 5, was 50"),
        ("settings", "budget", "thorough", "settings.budget is thorough, was quick"),
        ("settings", "queries", 64, "settings.queries is 64, was 1"),
        ("settings", "defences", ["Laplace(scale=0.5)"], "is Laplace(scale=0.5), was none"),
    ],
)
def test_what_asked_for_something_else_is_no_baseline(
    part: str, name: str, value: object, said: str
) -> None:
    new = whole()
    new[part][name] = value
    (found,) = gate(AuditResult.of(new), baseline=AuditResult.of(whole()))
    assert (found.cut, found.rule) == ("the audit", "comparable with the baseline")
    assert said in found.said
    # Weights and victims may be others.
    other = whole()
    other["model"] |= {"source": "net.py:make, weights new.pt", "parameters": 99}
    other["data"]["victims"] = 41
    assert failing(other, baseline=whole()) == []


def test_new_cuts_are_compared_with_nothing_and_no_cut_in_common_is_refused() -> None:
    old = whole()
    del old["cuts"][0], old["recommended"]
    old["recommended"] = None
    assert failing(whole(), baseline=old) == []
    old["cuts"][0]["name"] = "other"
    with pytest.raises(UsageError, match=r"has the cuts \['other'\], and this audit none of them"):
        failing(whole(), baseline=old)


@pytest.mark.parametrize("renamed", [True, False])
def test_cuts_that_are_no_longer_there_fail_unless_that_is_allowed(
    renamed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = whole()
    if renamed:
        made["cuts"][0]["name"] = "conv1b"
    else:
        del made["cuts"][0]
    new, old = AuditResult.of(made), AuditResult.of(whole())
    assert failing(made, baseline=whole()) == [("conv1", "the baseline's cut is audited")]
    assert gate(new, baseline=old, may_lack_cuts=True) == []
    with pytest.raises(GateFailed):
        Gate(baseline=old).close(new, Path("audit.json"))
    assert (
        "conv1: the baseline's cut is audited: it is not in this audit" in capsys.readouterr().err
    )
    Gate(baseline=old, may_lack_cuts=True).close(new, Path("audit.json"))


@pytest.mark.parametrize(
    "part, digest, passed, said",
    [
        ("model", "b", True, "the weights are others than then"),
        ("model", None, True, "whether the weights are the same is not known"),
        ("data", "b", False, "the pictures are others under the same name"),
        ("data", None, True, "whether the pictures are the same is not known"),
    ],
)
def test_what_has_the_same_name_is_told_by_its_digest(
    part: str, digest: str | None, passed: bool, said: str
) -> None:
    new, old = whole(), whole()
    for made in (new, old):
        made["model"]["digest"] = made["data"]["digest"] = "a"
    new[part]["digest"] = digest
    found = checks(AuditResult.of(new), baseline=AuditResult.of(old))
    (check,) = [each for each in found if each.rule == "comparable with the baseline"]
    assert check.passed is passed and said in check.said
    # What is the same may lie elsewhere by now.
    new[part] |= {"digest": "a", "name": "moved"}
    assert failing(new, baseline=old) == []


def test_a_model_of_the_same_weights_and_other_code_is_told_by_its_answers() -> None:
    new, old = whole(), whole()
    for made, last in ((new, 0.5), (old, 0.4)):
        made["model"] |= {"digest": "a", "answers": [1.0, None, last]}
        made["data"]["digest"] = "a"
    found = checks(AuditResult.of(new), baseline=AuditResult.of(old))
    (check,) = [each for each in found if each.rule == "comparable with the baseline"]
    assert check.passed and "answers otherwise: its code is another" in check.said
    new["model"]["answers"][2] = 0.405
    assert "its code" not in str(checks(AuditResult.of(new), baseline=AuditResult.of(old)))


def test_beside_an_audit_that_knew_nothing_nothing_passes() -> None:
    """Intervals of a few victims hold everything, so that nothing is worse."""
    old = whole()
    old["cuts"][1]["verdict"] = {"level": "unknown", "sentence": "conv2: unknown, as 6 victims."}
    old["recommended"] = None
    (found,) = gate(AuditResult.of(whole()), baseline=AuditResult.of(old))
    assert (found.cut, found.rule) == ("conv2", "the baseline's verdict is known")
    assert "then: conv2: unknown, as 6 victims. Make a baseline" in found.said
