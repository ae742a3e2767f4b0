"""A gate for pipelines: rules on what an audit measured, and a comparison with an earlier audit; nothing imports torch.

What was not measured cannot pass: an attack that failed, or was left out for want of time, fails the gate, and so does
a rule on a measure that a cut has no value of. An attack that does not apply to a cut is no reason to fail.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsnn.audit.junit import Check, write_junit
from dpsnn.audit.result import AuditResult
from dpsnn.errors import GateFailed, UsageError, meant, one_line
from dpsnn.numbers import Number

ABOVE, BELOW = "above", "below"

INAPPLICABLE = "does not apply"
"""With which the reason of an attack begins that was left out because it cannot be made on this cut."""

ATTACKED = "every attack ran"
"""The rule that always holds."""

Cut = Mapping[str, Any]


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


@dataclass(frozen=True)
class Column:
    """What a rule can be about."""

    name: str
    worse: str
    """On which side more leaks (or less is recognised)."""
    of: Callable[[Cut], Mapping[str, Any] | None]
    """Of a cut: the value with its interval; None where it has none."""


def columns(measures: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Lower-case name → what can be asked of every cut: the measures of the strongest attack, and two more.

    Args:
        measures: As an audit has them, each with `column` and `lower_leaks`.
    """

    def strongest(column: str) -> Callable[[Cut], Mapping[str, Any] | None]:
        return lambda cut: cut["strongest"].get(column)

    found = [
        Column(each["column"], BELOW if each["lower_leaks"] else ABOVE, strongest(each["column"]))
        for each in measures
    ]
    found.append(Column("reidentified", ABOVE, lambda cut: cut["reidentified"]))
    found.append(Column("accuracy", BELOW, lambda cut: cut["accuracy"]))
    return {column.name.lower(): column for column in found}


def checks(
    result: AuditResult, rules: Sequence[Rule] = (), baseline: AuditResult | None = None
) -> list[Check]:
    """Every rule at every cut: that all attacks ran, the limits, and that no more leaks than in an earlier audit.

    Raises:
        UsageError: If a rule is about no column, or looks the wrong way, or the earlier audit has none of the cuts.
    """
    known = columns(result.measures)
    asked = [(rule, _column(rule, known)) for rule in rules]
    earlier = {cut["name"]: cut for cut in baseline.cuts} if baseline else {}
    if baseline and not earlier.keys() & {cut["name"] for cut in result.cuts}:
        raise UsageError(
            f"--baseline has the cuts {sorted(earlier)}, and this audit none of them; name an audit of the same model"
        )
    found: list[Check] = []
    for cut in result.cuts:
        found.append(_attacked(cut))
        found += [_limited(cut, rule, column) for rule, column in asked]
        if cut["name"] in earlier:
            found += _compared(cut, earlier[cut["name"]], known.values())
    return found


def gate(
    result: AuditResult, rules: Sequence[Rule] = (), baseline: AuditResult | None = None
) -> list[Check]:
    """The checks that fail, none if the gate is open; arguments and errors as those of `checks`."""
    return [check for check in checks(result, rules, baseline) if not check.passed]


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
    return known[name]


def _attacked(cut: Cut) -> Check:
    lacking = [
        f"{attack['label']} {attack['status']} ({attack['reason']})"
        for attack in cut["attacks"]
        if attack["status"] != "ok"
        and not (attack["status"] == "skipped" and attack["reason"].startswith(INAPPLICABLE))
    ]
    ran = sum(attack["status"] == "ok" for attack in cut["attacks"])
    if not lacking and not ran:
        lacking = ["no attack was made"]
    return Check(cut["name"], ATTACKED, not lacking, "; ".join(lacking) or f"{ran} ran")


def _limited(cut: Cut, rule: Rule, column: Column) -> Check:
    estimate = column.of(cut)
    named = f"{column.name} not {rule.side} {rule.limit:g}"
    if estimate is None or estimate["value"] is None:
        return Check(cut["name"], named, False, f"{column.name} was not measured")
    value = estimate["value"]
    beyond = value > rule.limit if rule.side == ABOVE else value < rule.limit
    return Check(cut["name"], named, not beyond, f"{column.name} is {_shown(estimate)}")


def _compared(cut: Cut, earlier: Cut, known: Iterable[Column]) -> list[Check]:
    """Worse only where the whole interval of now is on the leaking side of that of then."""
    found = []
    for column in known:
        then, now = column.of(earlier), column.of(cut)
        # Accuracy is no leakage, and of other candidates another share is found.
        if column.name == "accuracy" or then is None or then["value"] is None:
            continue
        if now is not None and now.get("candidates") != then.get("candidates"):
            continue
        rule = f"{column.name} no worse than in the baseline"
        if now is None or now["value"] is None:
            was = f"{column.name} was {_shown(then)} and is not measured now"
            found.append(Check(cut["name"], rule, False, was))
            continue
        (low, high), (old_low, old_high) = _ends(now), _ends(then)
        worse = high < old_low if column.worse == BELOW else low > old_high
        said = f"{column.name} is {_shown(now)}, was {_shown(then)}"
        found.append(Check(cut["name"], rule, not worse, said))
    return found


def _ends(estimate: Mapping[str, Any]) -> tuple[Number, Number]:
    """Of the interval; the value twice where it has none."""
    low, high = (
        estimate["value"] if estimate[end] is None else estimate[end] for end in ("low", "high")
    )
    return low, high


def _shown(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.4g}"
    return f"{estimate['value']:.4g} ({estimate['low']:.4g} to {estimate['high']:.4g})"


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
            help=f"fail where the strongest attack gets {side} a limit, as {example}; may be given several times",
        )
    group.add_argument(
        "--baseline",
        default="",
        metavar="OLD.json",
        help="fail where more leaks than in an earlier audit, beyond the intervals of both",
    )
    group.add_argument("--junit", default="", metavar="FILE", help="write every check as JUnit XML")


@dataclass(frozen=True)
class Gate:
    """What was asked for; made before the work begins, so that a mistyped rule is told at once."""

    rules: tuple[Rule, ...] = ()
    baseline: AuditResult | None = None
    junit: str = ""

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Gate | None":
        """What the options of `add_gate_options` say; None where they ask for no gate.

        Raises:
            UsageError: If a rule cannot be read, or the earlier audit.
        """
        rules = [Rule.parse(text, ABOVE) for text in options.fail_above]
        rules += [Rule.parse(text, BELOW) for text in options.fail_below]
        if not rules and not options.baseline and not options.junit:
            return None
        old = AuditResult.load(options.baseline) if options.baseline else None
        return cls(tuple(rules), old, options.junit)

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
        found = checks(result, self.rules, self.baseline)
        if self.junit:
            write_junit(found, self.junit, result.model["name"], result.made["date"])
        for old in self._lost(result):
            print(
                f"dpsnn: the baseline's cut {one_line(old)} is not in this audit", file=sys.stderr
            )
        failed = [check for check in found if not check.passed]
        for check in failed:
            print(f"dpsnn: failed: {one_line(check)}", file=sys.stderr)
        if failed:
            print(path)
            raise GateFailed(f"the gate failed: {len(failed)} of {len(found)} checks")

    def _lost(self, result: AuditResult) -> list[str]:
        """Cuts of the earlier audit that this one lacks: nothing is known of them, which is not that they got worse."""
        now = {cut["name"] for cut in result.cuts}
        return (
            [each["name"] for each in self.baseline.cuts if each["name"] not in now]
            if self.baseline
            else []
        )
