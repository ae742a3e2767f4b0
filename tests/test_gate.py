"""The gate: what fails an audit, what it is compared with, what a pipeline is told."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from audit_example import NEAREST, RIDGE, changed, content, left_out, whole

from dpsnn.audit.gate import ABOVE, BELOW, Gate, Rule, add_gate_options, checks, columns, gate
from dpsnn.audit.junit import junit
from dpsnn.audit.result import AuditResult
from dpsnn.cli import main
from dpsnn.errors import GateFailed, UsageError

Json = dict[str, Any]


def failing(made: Json, *rules: Rule, baseline: Json | None = None) -> list[tuple[str, str]]:
    old = AuditResult.of(baseline) if baseline else None
    return [(each.cut, each.rule) for each in gate(AuditResult.of(made), rules, old)]


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize("column", ["ssim", "SSIM", "Ssim"])
def test_a_cut_fails_above_the_limit_alone(column: str) -> None:
    # The example's cuts have an SSIM of 0.9 and 0.1.
    assert failing(whole(), Rule(column, ABOVE, 0.5)) == [("conv1", "SSIM not above 0.5")]
    assert failing(whole(), Rule(column, ABOVE, 0.95)) == []


def test_a_cut_fails_below_the_limit_alone() -> None:
    # And errors of 0.005 and 0.069.
    assert failing(whole(), Rule("mse", BELOW, 0.02)) == [("conv1", "MSE not below 0.02")]
    assert failing(whole(), Rule("mse", BELOW, 0.002)) == []
    both = failing(whole(), Rule("mse", BELOW, 0.1), Rule("ssim", ABOVE, 0.5))
    assert [cut for cut, _ in both] == ["conv1", "conv1", "conv2"]


def test_what_may_be_beyond_a_limit_is_not_known_to_be_within() -> None:
    made = changed("SSIM", 0.47, 0.04)
    del made["cuts"][0]
    (failed,) = gate(AuditResult.of(made), [Rule("ssim", ABOVE, 0.5)])
    assert failed.said == "SSIM is 0.47 (0.43 to 0.51) and may be 0.51: more victims would tell"
    assert failing(made, Rule("ssim", ABOVE, 0.51)) == []
    # So far may an attack get that was scored on fewer victims.
    made["cuts"][0]["strongest"]["SSIM"] |= {"reach": 0.6, "open": ["nearest own image"]}
    (failed,) = gate(AuditResult.of(made), [Rule("ssim", ABOVE, 0.55)])
    assert "may be 0.6:" in failed.said
    (failed,) = gate(AuditResult.of(made), [Rule("ssim", ABOVE, 0.4)])
    assert failed.said == "SSIM is 0.47 (0.43 to 0.51)"
    made["cuts"][0]["reidentified"] |= {"value": 0.1, "low": 0.05, "high": 0.2, "reach": 0.3}
    (failed,) = gate(AuditResult.of(made), [Rule("reidentified", ABOVE, 0.25)])
    assert "may be 0.3:" in failed.said
    assert failing(made, Rule("mse", BELOW, 0.07))[0][1] == "MSE not below 0.07"
    assert failing(made, Rule("mse", BELOW, 0.065)) == []


def test_shares_of_victims_and_accuracy_have_rules_as_well() -> None:
    made = whole()
    made["cuts"][1]["reidentified"]["high"] = 0.3
    assert failing(made, Rule("reidentified", ABOVE, 0.5)) == [
        ("conv1", "reidentified not above 0.5")
    ]
    assert len(failing(whole(), Rule("accuracy", BELOW, 95.0))) == 2
    assert failing(whole(), Rule("accuracy", BELOW, 90.0)) == []


def test_an_unknown_column_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        gate(AuditResult.of(whole()), [Rule("sim", ABOVE, 0.5)])
    known = "['MSE', 'SSIM', 'reidentified', 'matched', 'accuracy']"
    assert str(refused.value) == (
        f"--fail_above sim=0.5: there is no column 'sim'; choose from {known} (did you mean SSIM?)"
    )


@pytest.mark.parametrize(
    "rule, said",
    [
        (Rule("ssim", BELOW, 0.5), "SSIM leaks more where it is higher; use --fail_above"),
        (Rule("mse", ABOVE, 0.02), "MSE leaks more where it is lower; use --fail_below"),
        (Rule("accuracy", ABOVE, 90), "accuracy is worse where it is lower; use --fail_below"),
    ],
)
def test_a_rule_that_looks_the_wrong_way_is_refused(rule: Rule, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        gate(AuditResult.of(whole()), [rule])


@pytest.mark.parametrize(
    "rule, said",
    [
        # The page shows both in per cent.
        (Rule("reidentified", ABOVE, 5), "reidentified is a share of the victims; .* from 0 to 1,"),
        (Rule("accuracy", BELOW, 0.9), "accuracy is in per cent; name a limit from 1 to 100,"),
        (Rule("ssim", ABOVE, 50), "SSIM is a number; name a limit from -1 to 1,"),
        (Rule("mse", BELOW, -0.1), "MSE is a number; name a limit of 0 or more,"),
    ],
)
def test_a_limit_that_nothing_passes_or_all_is_refused(rule: Rule, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        gate(AuditResult.of(whole()), [rule])


@pytest.mark.parametrize("text", ["ssim", "=0.5", "ssim=", "ssim=much", "ssim=nan", "ssim=inf", ""])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="it must be a column and a number, such as ssim=0.5"):
        Rule.parse(text, ABOVE)


def test_what_was_not_measured_does_not_pass() -> None:
    made = whole()
    del made["cuts"][1]["strongest"]["SSIM"]
    made["cuts"][0]["strongest"]["SSIM"] |= {"value": None, "low": None, "high": None}
    found = gate(AuditResult.of(made), [Rule("ssim", ABOVE, 0.99)])
    assert [each.said for each in found] == ["SSIM was not measured"] * 2


# ---------------------------------------------------------------- attacks


def test_an_attack_that_failed_fails_the_gate() -> None:
    found = gate(AuditResult.of(content()))
    assert [(each.cut, each.rule) for each in found] == [
        ("conv1", "every attack ran"),
        ("conv2", "every attack ran"),
    ]
    assert found[0].said == "inversion failed (the client has no gradient)"


@pytest.mark.parametrize(
    "at, cause, passes",
    [
        (NEAREST, "inapplicable", True),
        (NEAREST, "too large", True),  # the ridge has learnt at that cut
        (RIDGE, "too large", False),
        (RIDGE, "inapplicable", True),
        (NEAREST, "unpaid", False),
        (NEAREST, "failed", False),
    ],
)
def test_an_attack_may_be_left_out_by_its_cause_not_by_its_words(
    at: int, cause: str, passes: bool
) -> None:
    made = left_out(whole(), at, cause=cause, reason="does not apply, as they say")
    assert failing(made) == ([] if passes else [("conv2", "every attack ran")])


@pytest.mark.parametrize(
    "status, reason, passes",
    [
        ("skipped", "does not apply: no noise crosses the wire", True),
        ("skipped", "seed 0: does not apply: it asks the client", True),
        ("skipped", "it would need 95,551,488 weights, more than 60,000,000", True),
        ("skipped", "no time was left", False),
        ("skipped", "it does not apply", False),
        ("failed", "does not apply", False),
    ],
)
def test_of_files_without_causes_the_reasons_are_read(
    status: str, reason: str, passes: bool
) -> None:
    made = left_out(whole(), NEAREST, status=status, reason=reason)
    for cut in made["cuts"]:
        for row in cut["attacks"]:
            del row["cause"], row["learns"]
    assert failing(made) == ([] if passes else [("conv2", "every attack ran")])


def test_a_cut_without_any_attack_fails() -> None:
    made = whole()
    made["cuts"][0] |= {"attacks": [], "strongest": {}}
    assert [each.said for each in gate(AuditResult.of(made))] == ["no attack was made"]


@pytest.mark.parametrize("rules", [(), (Rule("ssim", ABOVE, 0.5),)])
def test_an_audit_without_cuts_fails(rules: tuple[Rule, ...]) -> None:
    made = whole() | {"cuts": [], "recommended": None}
    assert failing(made, *rules) == [("the audit", "a cut was audited")]


def test_a_verdict_that_is_not_known_passes_no_limit_and_no_comparison() -> None:
    """Six victims: whatever is asked of them, their intervals reach over it."""
    made = whole() | {"recommended": None}
    verdict = {"level": "unknown", "sentence": "conv2: unknown, as 6 victims are too few."}
    made["cuts"][1]["verdict"] = verdict
    expected = [("conv2", "the verdict is known")]
    assert failing(made) == []
    assert failing(made, Rule("mse", BELOW, 0.001)) == expected
    assert failing(made, baseline=whole()) == expected
    (found,) = gate(AuditResult.of(made), baseline=AuditResult.of(whole()))
    assert found.said == verdict["sentence"]


# ---------------------------------------------------------------- what a pipeline is told


def test_every_rule_at_every_cut_is_a_test_case() -> None:
    result = AuditResult.of(content())
    found = checks(result, [Rule("ssim", ABOVE, 0.5), Rule("mse", BELOW, 0.001)], result)
    root = ElementTree.fromstring(junit(found, "net <1>\x1b", "2026-01-31T12:00:00+00:00").encode())
    (suite,) = root
    # Of each cut: the attacks, the verdict, two rules; beside the earlier audit its verdict, its attacks and three
    # columns; and whether that can be compared at all.
    assert len(suite) == len(found) == 19
    assert suite.attrib == {
        "name": "net <1>\\x1b", "tests": "19", "failures": "3", "errors": "0", "skipped": "0",
        "timestamp": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    failed = [case for case in suite if case.find("failure") is not None]
    assert [(case.get("classname"), case.get("name")) for case in failed] == [
        ("conv1", "every attack ran"),
        ("conv1", "SSIM not above 0.5"),
        ("conv2", "every attack ran"),
    ]
    (why,) = failed[1]
    assert why.get("message") == "SSIM is 0.9 (0.87 to 0.93)"
    assert root.attrib["failures"] == "3"


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_gate_options(parser)
    return parser.parse_args(words)


def test_without_options_there_is_no_gate() -> None:
    assert Gate.of(options()) is None


def test_missing_cuts_are_those_of_a_baseline() -> None:
    with pytest.raises(UsageError, match="name it with --baseline"):
        Gate.of(options("--allow_missing_cuts"))


def test_rules_may_be_given_several_times() -> None:
    made = Gate.of(
        options("--fail_above", "ssim=0.5", "--fail_above", "PSNR=20", "--fail_below", "mse=0.01")
    )
    assert made is not None
    assert made.rules == (
        Rule("ssim", ABOVE, 0.5),
        Rule("PSNR", ABOVE, 20),
        Rule("mse", BELOW, 0.01),
    )


def test_columns_are_the_measures_of_the_strongest_and_two_more() -> None:
    found = columns(content()["measures"])
    assert {name: column.worse for name, column in found.items()} == {
        "mse": BELOW, "ssim": ABOVE, "reidentified": ABOVE, "matched": ABOVE, "accuracy": BELOW
    }  # fmt: skip


def test_rules_can_be_checked_before_the_work_begins() -> None:
    Gate((Rule("ssim", ABOVE, 0.5),)).check(content()["measures"])
    with pytest.raises(UsageError, match="there is no column 'PSNR'"):
        Gate((Rule("PSNR", ABOVE, 20),)).check(content()["measures"])


def test_a_gate_that_stays_shut_names_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shut = Gate((Rule("ssim", ABOVE, 0.5),), junit=str(tmp_path / "deep" / "junit.xml"))
    with pytest.raises(GateFailed, match="the gate failed: 1 of 6 checks"):
        shut.close(AuditResult.of(whole()), Path("audit.json"))
    said = "dpsnn: failed: conv1: SSIM not above 0.5: SSIM is 0.9 (0.87 to 0.93)\n"
    assert capsys.readouterr() == ("audit.json\n", said)
    assert ElementTree.parse(tmp_path / "deep" / "junit.xml").getroot().get("failures") == "1"


# ---------------------------------------------------------------- the command


@pytest.fixture
def audit(tmp_path: Path) -> Callable[[Json], Path]:
    def write(made: Json) -> Path:
        return AuditResult.of(made).save(tmp_path / "audit.json")

    return write


@pytest.mark.parametrize(
    "words, code, said",
    [
        ("", 0, ""),
        ("--fail-above=ssim=0.5", 3, "dpsnn: the gate failed: 1 of 6 checks"),
        ("--fail_above blur=1", 2, "there is no column 'blur'; choose from"),
        ("--baseline nowhere.json", 2, "there is no nowhere.json"),
        ("--junit .", 2, "--junit is '.', where no file can be written; name another"),
    ],
)
def test_exit_codes(
    audit: Callable[[Json], Path],
    words: str,
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = audit(whole())
    assert main(["report", str(path), *words.split()]) == code
    heard = capsys.readouterr()
    assert said in (heard.err.splitlines() or [""])[-1]
    page = path.with_name("report.html")
    # The page is made whether or not the gate is open, and its path is the last line.
    assert heard.out == (f"{page}\n" if code != 2 else "")
    assert page.exists() == (code != 2)
    assert len(heard.err.splitlines()) == {0: 0, 2: 1, 3: 2}[code]


def test_a_worse_audit_than_the_baseline_exits_with_three(
    audit: Callable[[Json], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(whole()))
    path = audit(changed("SSIM", 0.5, 0.01))
    words = ["report", str(path), "--baseline", str(old), "--junit", str(tmp_path / "junit.xml")]
    assert main(words) == 3
    known, first, last = capsys.readouterr().err.splitlines()
    assert "whether the weights are the same is not known" in known
    assert first == (
        "dpsnn: failed: conv2: SSIM no worse than in the baseline: SSIM is 0.5 (0.49 to 0.51), was 0.1 (0.07 to 0.13)"
    )
    assert last == "dpsnn: the gate failed: 1 of 15 checks"
