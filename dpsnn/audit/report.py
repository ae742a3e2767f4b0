"""`dpsnn report`: the page of an audit from its JSON, and the gate; nothing here imports torch."""

import argparse
from pathlib import Path

from dpsnn.atomic import staged
from dpsnn.audit.gate import Gate
from dpsnn.audit.report_digest import digest
from dpsnn.audit.report_page import page
from dpsnn.audit.result import NAME, AuditResult
from dpsnn.errors import UsageError

PAGE = "report.html"


def write_report(result: AuditResult, path: str | Path) -> Path:
    """Write the page of an audit, whole or not at all.

    Returns:
        The file.
    """
    path = Path(path)
    text = page(digest(result))
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def report(options: argparse.Namespace) -> Path:
    """Make the page anew; with rules or an earlier audit, check the audit as well.

    Raises:
        GateFailed: After the page was written and named, if the audit does not pass.
    """
    source = Path(options.audit)
    source = source / NAME if source.is_dir() else source
    target = Path(options.savepath or source.with_name(PAGE))
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--savepath is {options.savepath!r}; end the name in .html")
    gate = Gate.of(options)
    result = AuditResult.load(source)
    if gate:
        gate.check(result.measures)
    path = write_report(result, target)
    if gate:
        gate.close(result, path)
    return path
