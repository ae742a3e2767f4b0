"""Run the benchmarks, each in a process of its own, one after another, and write their table."""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpsnn import atomic, signals
from dpsnn.bench import machine
from dpsnn.bench.records import handed_over
from dpsnn.bench.table import markdown
from dpsnn.errors import UsageError, WorkFailed, one_line, one_of
from dpsnn.manifest import digest_of
from dpsnn.runner.progress import duration, note

EXTRA = "EXTRA"
"""What a benchmark calls the extra that it needs: it runs in the environment that `./main.sh install EXTRA` makes."""

PATIENCE = 10.0
"""Seconds that an interrupted benchmark has to tidy up."""

DONE, FAILED, NOT_RUN = "done", "failed", "not run"


def benchmarks(folder: Path) -> dict[str, Path]:
    """Name → file of every benchmark, in order.

    Raises:
        UsageError: If there is none.
    """
    found = {path.stem: path for path in sorted(folder.glob("[!_.]*.py"))}
    if not found:
        raise UsageError(
            f"{folder} holds no benchmarks; call ./main.sh bench, or name their --folder"
        )
    return found


def bench(options: argparse.Namespace) -> Path | None:
    """Measure what is asked for and not finished; print the table of all.

    Returns:
        The table.

    Raises:
        UsageError: If a name is unknown, or another process writes into the same folder.
        WorkFailed: If a benchmark failed; all others ran.
    """
    known = benchmarks(Path(options.folder))
    for name in options.only or ():
        one_of(name, known, "benchmark")
    asked = [name for name in known if name in (options.only or known)]
    out = Path(options.out)
    if options.dry_run:
        for name in asked:
            print(shlex.join(command(known[name], out / f"{name}.json", options.quick)))
        return None
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        return _bench(known, asked, out, options.quick, options.again)


@contextlib.contextmanager
def _alone(out: Path) -> Any:
    """Two at once would measure each other."""
    try:
        with FileLock(out / ".bench.lock", timeout=0):
            yield
    except Timeout as error:
        raise UsageError(f"another bench writes into {out}; wait until it is done") from error


def _bench(
    known: Mapping[str, Path], asked: Sequence[str], out: Path, quick: bool, again: bool
) -> Path:
    here = {
        "quick": quick,
        "machine": machine.machine(),
        "versions": machine.versions(),
        "commit": machine.commit(),
        "date": date.today().isoformat(),
        "load": machine.load(),
    }
    found, failed = [], {}
    for number, (name, path) in enumerate(known.items()):
        this = {"name": name, **here, "source": digest_of(path)}
        earlier = _earlier(out / f"{name}.json", this)
        if name not in asked:
            found.append(earlier or {**this, "status": NOT_RUN, "why": "not asked for"})
            continue
        if earlier and earlier["status"] == DONE and not again:
            note(f"[bench: {number} of {len(known)} done] {name} is finished")
            found.append(earlier)
            continue
        note(f"[bench: {number} of {len(known)} done] {name}")
        found.append(_measured(path, out, this))
        if found[-1]["status"] == FAILED:
            failed[name] = found[-1]["why"]
    report = {**here, "benchmarks": found}
    text = markdown(report)
    _write(out / "bench.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    _write(out / "bench.md", text)
    print(text, flush=True)
    if failed:
        named = "; ".join(f"{name} ({why})" for name, why in failed.items())
        raise WorkFailed(f"{len(failed)} of {len(asked)} failed: {named}")
    return out / "bench.md"


def _earlier(path: Path, this: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was found before; None where that was by another benchmark, machine or version, or cannot be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        same = ("name", "quick", "machine", "versions", "source")
        return found if all(found[each] == this[each] for each in same) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(path: Path, out: Path, this: Mapping[str, Any]) -> dict[str, Any]:
    """Run one benchmark, keep what it finds, and return that."""
    name = this["name"]
    log, handed = out / "logs" / f"{name}.log", out / f".{name}.handed.json"
    log.parent.mkdir(exist_ok=True)
    handed.unlink(missing_ok=True)
    words = command(path, handed, this["quick"])
    start = time.monotonic()
    try:
        code = _run(words, log)
        status, why, records = _outcome(code, handed, log)
    finally:
        handed.unlink(missing_ok=True)
    seconds = round(time.monotonic() - start, 1)
    told = f"{len(records)} numbers" if status == DONE else f"{status}: {why}"
    note(f"  {told}, in {duration(seconds)}; see {log}")
    found = {**this, "status": status, "why": why, "seconds": seconds, "records": records}
    _write(out / f"{name}.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def _outcome(code: int, handed: Path, log: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """Status, why it is not done, and the numbers."""
    why = ""
    if handed.exists():
        try:
            records, why = handed_over(handed)
        except UsageError as error:
            return FAILED, str(error), []
        if why:
            return NOT_RUN, why, []
        if code == 0:
            return DONE, "", [asdict(record) for record in records]
    if code < 0:
        killed = signal.Signals(-code).name
        return FAILED, f"ended by {killed}{', as when memory runs out' * (killed == 'SIGKILL')}", []
    last = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    said = one_line(last[-1].strip()) if last and code else "it handed over no numbers"
    return FAILED, f"{said} (exit code {code})", []


def command(path: Path, json_file: Path, quick: bool) -> list[str]:
    """How a benchmark is run."""
    words = [_python(path), str(path), "--json", str(json_file)]
    return [*words, "--quick"] if quick else words


def _python(path: Path) -> str:
    """This Python, or that of the environment made for the extra that the benchmark names."""
    named = re.search(rf'^{EXTRA} = "(\w+)"', path.read_text("utf-8"), re.M)
    apart = Path(f".venv-{named[1]}/bin/python") if named else None
    return str(apart.absolute()) if apart and apart.exists() else sys.executable


def _run(words: Sequence[str], log: Path) -> int:
    """Exit code of a process, of which nothing is left when this is interrupted."""
    # What is measured is this dpsnn, whichever is installed.
    home = Path(__file__).parents[2]
    ours = [] if home.name == "site-packages" else [str(home)]
    paths = [*ours, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = None
    with open(log, "wb") as file:
        try:
            with signals.held():
                child = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    start_new_session=True,
                )
            return child.wait()
        finally:
            if child:
                _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt a benchmark that still runs, that it may tidy up; end what is left of all that it started."""
    with contextlib.suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _write(path: Path, text: str) -> None:
    with atomic.staged(path) as temporary:
        temporary.write_text(text, "utf-8")
