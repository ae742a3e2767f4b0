"""Checks as JUnit XML, which every pipeline shows: a test case for each cut and rule."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from dpsnn.atomic import staged
from dpsnn.errors import UsageError, one_line


@dataclass(frozen=True)
class Check:
    """One rule at one cut, and what came of it."""

    cut: str
    rule: str
    passed: bool
    said: str
    """The numbers."""

    def __str__(self) -> str:
        return f"{self.cut}: {self.rule}: {self.said}"


def junit(checks: Sequence[Check], name: str, made: str = "") -> str:
    """The document.

    Args:
        checks: In the order in which they are to stand.
        name: Of the suite: what was audited.
        made: When, by ISO 8601; left out where empty.
    """
    failed = sum(not check.passed for check in checks)
    counts = {"tests": str(len(checks)), "failures": str(failed), "errors": "0"}
    suites = ElementTree.Element("testsuites", {"name": "dpsnn audit", **counts})
    dated = {"timestamp": one_line(made)} if made else {}
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": one_line(name), **counts, "skipped": "0", **dated}
    )
    for check in checks:
        # XML has no way to write most control characters, and names may hold any: `one_line` escapes them.
        named = {"classname": one_line(check.cut), "name": one_line(check.rule)}
        case = ElementTree.SubElement(suite, "testcase", {**named, "time": "0"})
        if not check.passed:
            said = one_line(check.said)
            why = ElementTree.SubElement(case, "failure", {"message": said, "type": "leakage"})
            why.text = f"{named['classname']}: {said}"
        elif check.said:
            ElementTree.SubElement(case, "system-out").text = one_line(check.said)
    ElementTree.indent(suites)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(suites, encoding='unicode')}\n"


def ensure_writable(path: str | Path) -> None:
    """Prove that the document can be written there, before any work is spent.

    Raises:
        UsageError: If not.
    """
    file = Path(path)
    there = next(place for place in file.absolute().parents if place.exists())
    if file.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(f"--junit is {str(path)!r}, where no file can be written; name another")


def write_junit(checks: Sequence[Check], path: str | Path, name: str, made: str = "") -> Path:
    """Write the document, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as temporary:
        temporary.write_text(junit(checks, name, made), encoding="utf-8")
    return path
