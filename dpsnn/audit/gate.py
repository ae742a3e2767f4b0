"""A gate for pipelines: rules on what an audit measured, and a comparison with an earlier audit; nothing imports torch.

What was not measured cannot pass: an attack that failed, or was left out for want of time, fails the gate, and so does
a rule on a measure that a cut has no value of, or one whose interval reaches beyond the limit, a verdict that is not
known, and an audit without cuts. An attack that
cannot be made at a cut is no reason to fail; nor is one that is too large for any machine, where another one learnt.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsnn.audit.gate_baseline import EVERYWHERE, compared
from dpsnn.audit.gate_columns import ABOVE, BELOW, Column, Cut, columns, leaking, shown
from dpsnn.audit.junit import Check, ensure_writable, write_junit
from dpsnn.audit.lacking import lost
from dpsnn.audit.result import AuditResult
from dpsnn.errors import GateFailed, UsageError, meant, one_line
from dpsnn.numbers import Number

ATTACKED = "every attack ran"
"""The rule that always holds."""


@dataclass(frozen=True)
class Rule:
    """What fails a cut: a measure beyond a limit."""

    column: str
    """As it was typed, in any case."""
    side: str
    """On which side of the limit a cut fails, `above` or `below`."""
    limit: Number

    @property
    def option(self) -> str:
        return f"--fail_{self.side} {self.column}={self.limit:g}"

    @classmethod
    def parse(cls, text: str, side: str) -> "Rule":
        """Of `ssim=0.5`.

        Raises:
            UsageError: If it is not a column, an equals sign and a finite number.
        """
        column, _, limit = text.partition("=")
        try:
            value = float(limit)
        except ValueError:
            value = float("nan")
        if not column.strip() or not abs(value) < float("inf"):
            raise UsageError(
                f"--fail_{side} is {text!r}; it must be a column and a number, such as ssim=0.5"
            )
        return cls(column.strip(), side, value)


def checks(
    result: AuditResult,
    rules: Sequence[Rule] = (),
    baseline: AuditResult | None = None,
    may_lack_cuts: bool = False,
) -> list[Check]:
    """Every rule at every cut: that all attacks ran, the limits, and that no more leaks than in an earlier audit.

    Args:
        result: The audit.
        rules: Limits.
        baseline: The earlier audit.
        may_lack_cuts: Whether cuts of that may be missing.

    Raises:
        UsageError: If a rule is about no column, looks the wrong way, or has a limit that says nothing; or the earlier
            audit has none of the cuts.
    """
    known = columns(result.measures)
    asked = [(rule, _column(rule, known)) for rule in rules]
    names = {cut["name"] for cut in result.cuts}
    earlier = [cut["name"] for cut in baseline.cuts] if baseline else []
    if baseline and names and not names & {*earlier}:
        raise UsageError(
            f"--baseline has the cuts {sorted(earlier)}, and this audit none of them; name an audit of the same model"
        )
    found: list[Check] = []
    if not names:
        found.append(Check(EVERYWHERE, "a cut was audited", False, "there is none in it"))
    for cut in result.cuts:
        found.append(_attacked(cut))
        if asked or baseline:
            found.append(_judged(cut))
        found += [_limited(cut, rule, column) for rule, column in asked]
    if baseline:
        found += compared(result, baseline, may_lack_cuts)
    return found


def gate(
    result: AuditResult,
    rules: Sequence[Rule] = (),
    baseline: AuditResult | None = None,
    may_lack_cuts: bool = False,
) -> list[Check]:
    """The checks that fail, none if the gate is open; arguments and errors as those of `checks`."""
    return [check for check in checks(result, rules, baseline, may_lack_cuts) if not check.passed]


def _column(rule: Rule, known: Mapping[str, Column]) -> Column:
    name = rule.column.lower()
    if name not in known:
        names = [column.name for column in known.values()]
        raise UsageError(
            f"{rule.option}: there is no column {rule.column!r}; choose from {names}{meant(rule.column, names)}"
        )
    if known[name].worse != rule.side:
        told = "is worse" if name == "accuracy" else "leaks more"
        raise UsageError(
            f"{rule.option}: {known[name].name} {told} where it is"
            f" {'lower' if known[name].worse == BELOW else 'higher'}; use --fail_{known[name].worse}"
        )
    low, high = known[name].limits
    if not low <= rule.limit <= high:
        between = f"from {low:g} to {high:g}" if high < float("inf") else f"of {low:g} or more"
        raise UsageError(
            f"{rule.option}: {known[name].name} is {known[name].unit}; name a limit {between}, as no cut is beyond this"
            " one, or all are"
        )
    return known[name]


def _attacked(cut: Cut) -> Check:
    lacking = [
        f"{attack['label']} {attack['status']} ({attack['reason']})"
        for attack in lost(cut["attacks"])
    ]
    ran = sum(attack["status"] == "ok" for attack in cut["attacks"])
    if not lacking and not ran:
        lacking = ["no attack was made"]
    return Check(cut["name"], ATTACKED, not lacking, "; ".join(lacking) or f"{ran} ran")


def _judged(cut: Cut) -> Check:
    """Numbers of too few victims, or without the attacks that count, pass any limit by their width alone."""
    verdict = cut["verdict"]
    known = verdict["level"] != "unknown"
    return Check(cut["name"], "the verdict is known", known, "" if known else verdict["sentence"])


def _limited(cut: Cut, rule: Rule, column: Column) -> Check:
    estimate = column.of(cut)
    named = f"{column.name} not {rule.side} {rule.limit:g}"
    if estimate is None or estimate["value"] is None:
        return Check(cut["name"], named, False, f"{column.name} was not measured")
    # What leaks is within only if that is known. An accuracy is no promise.
    value, sign = estimate["value"], 1 if rule.side == ABOVE else -1
    worst = value if column.name == "accuracy" else leaking(estimate, column)
    told = f"{column.name} is {shown(estimate)}"
    if sign * (worst - rule.limit) > 0 >= sign * (value - rule.limit):
        told += f" and may be {worst:.4g}: more victims would tell"
    return Check(cut["name"], named, sign * (worst - rule.limit) <= 0, told)


# ---------------------------------------------------------------- on the command line


def add_gate_options(parser: argparse.ArgumentParser) -> None:
    """The options of `Gate.of`."""
    group = parser.add_argument_group("gate for pipelines (exit code 3 where it fails)")
    for side, example in ((ABOVE, "ssim=0.5"), (BELOW, "mse=0.02")):
        group.add_argument(
            f"--fail_{side}",
            action="append",
            default=[],
            metavar="COLUMN=LIMIT",
            help=f"fail where the strongest attack gets, or by its interval may get, {side} a limit, as {example}; of"
            " accuracy the value counts; may be given several times",
        )
    group.add_argument(
        "--baseline",
        default="",
        metavar="OLD.json",
        help="fail where more leaks than in an earlier audit, beyond the intervals of both",
    )
    group.add_argument(
        "--allow_missing_cuts",
        action="store_true",
        help="let cuts of that audit be missing, which fails otherwise",
    )
    group.add_argument("--junit", default="", metavar="FILE", help="write every check as JUnit XML")


@dataclass(frozen=True)
class Gate:
    """What was asked for; made before the work begins, so that a mistyped rule is told at once."""

    rules: tuple[Rule, ...] = ()
    baseline: AuditResult | None = None
    junit: str = ""
    may_lack_cuts: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Gate | None":
        """What the options of `add_gate_options` say; None where they ask for no gate.

        Raises:
            UsageError: If a rule cannot be read, or the earlier audit, or the XML cannot be written.
        """
        rules = [Rule.parse(text, ABOVE) for text in options.fail_above]
        rules += [Rule.parse(text, BELOW) for text in options.fail_below]
        if options.allow_missing_cuts and not options.baseline:
            raise UsageError(
                "--allow_missing_cuts is about cuts of an earlier audit: name it with --baseline"
            )
        if not rules and not options.baseline and not options.junit:
            return None
        if options.junit:
            ensure_writable(options.junit)
        old = AuditResult.load(options.baseline) if options.baseline else None
        return cls(tuple(rules), old, options.junit, options.allow_missing_cuts)

    def check(self, measures: Sequence[Mapping[str, Any]]) -> None:
        """Refuse rules on what will not be measured; `measures` as those of `columns`.

        Raises:
            UsageError: As `checks`.
        """
        known = columns(measures)
        for rule in self.rules:
            _column(rule, known)

    def close(self, result: AuditResult, path: Path) -> None:
        """Check an audit, write the XML if asked to, and name on standard error what fails.

        Args:
            result: The audit.
            path: What the command has written: that is named on standard output whether or not it passes.

        Raises:
            UsageError: As `checks`.
            GateFailed: If anything fails.
        """
        found = checks(result, self.rules, self.baseline, self.may_lack_cuts)
        if self.junit:
            write_junit(found, self.junit, result.model["name"], result.made["date"])
        failed = [check for check in found if not check.passed]
        for check in found:
            if check.passed and check.said and check.cut == EVERYWHERE:
                print(f"dpsnn: {one_line(check)}", file=sys.stderr)
        for check in failed:
            print(f"dpsnn: failed: {one_line(check)}", file=sys.stderr)
        if failed:
            print(path)
            raise GateFailed(f"the gate failed: {len(failed)} of {len(found)} checks")
