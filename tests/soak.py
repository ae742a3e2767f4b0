"""Signals at random moments over real commands; `python tests/soak.py 200` sends so many and says what came of it.

`python tests/soak.py --engine local --kills 300` disturbs a grid on an engine instead: see `soak_engines`.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as RichProgress

from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.runner.engines import Where
from dpsnn.signals import SIGNALS

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--dataset", "digits", "--precision", "32"]
COMMANDS = {
    "train_model": [sys.executable, "-m", "dpsnn.cli", "train_model", "--max_epochs", "3"],
    "plain": [str(ROOT / "main.sh"), "plain", "--max_epochs", "1"],
    "plain --jobs 2": [str(ROOT / "main.sh"), "plain", "--max_epochs", "1", "--jobs", "2"],
}
PER_RUN = 8
"""Signals that one run meets, called again after each, before it is left in peace."""
TIMED = ("Seconds",)


def calmly() -> None:
    """As main.sh starts Python: signals wait until it can take them. A test run in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class Run:
    """One command in folders of its own.

    Args:
        command: Its words, but for folders.
        place: An empty folder.
        direct: Whether it is Python itself, without main.sh around it.
    """

    def __init__(self, command: Sequence[str], place: Path, direct: bool = False) -> None:
        self.place = place
        for made in ("tmp", "data"):
            (place / made).mkdir(parents=True)
        folders = [f"--{kind}_dir={place / kind}" for kind in ("models", "results", "data")]
        self.command = [*command, *folders]
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(place / "tmp"),
        }
        self.direct = direct

    def start(self) -> "subprocess.Popen[str]":
        with open(self.place / "err", "w", encoding="utf-8") as err:
            return subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                start_new_session=True,
                preexec_fn=calmly if self.direct else _ctrl_c,
            )

    def said(self) -> str:
        return (self.place / "err").read_text(encoding="utf-8")

    def finish(self) -> float:
        """Let it end in peace; the seconds that it took."""
        start = time.monotonic()
        process = self.start()
        process.communicate(timeout=600)
        assert process.returncode == 0, self.said()
        return time.monotonic() - start

    def struck(self, after: float, number: signal.Signals, group: bool) -> int:
        """Send a signal, to the process or to its group; the exit code, once nobody of the group is left."""
        process = self.start()
        time.sleep(after)
        ended = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(process.pid, number)
        process.communicate(timeout=120)
        assert ended or process.returncode, "a signal got lost"
        end = time.monotonic() + 20
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.killpg(process.pid, 0)
                assert time.monotonic() < end, "processes outlive the command"
                time.sleep(0.1)
        return int(process.returncode)

    def tables(self) -> dict[str, list[list[tuple[str, str]]]]:
        """Every table, but for how long things took."""
        return {
            path.name: sorted(
                sorted((k, v) for k, v in row.items() if not k.endswith(TIMED))
                for row in tables.read(path)
            )
            for path in sorted(self.place.glob("results/quantitative_measures/*.csv"))
        }

    def files(self) -> list[str]:
        """All files but logs, and locks, which stay for whoever may be waiting for them."""
        return sorted(
            str(path.relative_to(self.place))
            for path in self.place.rglob("*")
            if path.is_file() and path.suffix != ".lock" and "logs" not in path.parts
        )


def _ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def soak(name: str, count: int, place: Path, seed: int = 0) -> Counter[str]:
    """Strike a command with signals, half of them in the first seconds, and compare what it ends with.

    Args:
        name: Of `COMMANDS`.
        count: Signals.
        place: An empty folder.
        seed: Of moments and kinds.

    Returns:
        How often the command ended in which way.
    """
    draw = random.Random(seed)
    command, direct = [*COMMANDS[name], *SMALL], name == "train_model"
    straight = Run(command, place / "straight", direct)
    seconds = straight.finish()
    ends: Counter[str] = Counter()
    for number in range(-(-count // PER_RUN)):
        run = Run(command, place / str(number), direct)
        for _ in range(min(PER_RUN, count - number * PER_RUN)):
            after = draw.uniform(0, 1.5 if draw.random() < 0.5 else seconds)
            stop = draw.choice(SIGNALS)
            code = run.struck(after, stop, draw.random() < 0.5)
            said, moment = run.said(), f"{stop.name} after {after:.3f} s"
            assert code in (0, 130, *(-number for number in SIGNALS)), f"{moment}: {code}, {said}"
            assert "Traceback" not in said and "Exception ignored" not in said, f"{moment}: {said}"
            if code == 130:
                assert "interrupted" in said.splitlines()[-1], f"{moment}: {said}"
            ends["finished" if code == 0 else "130" if code == 130 else "killed"] += 1
        run.finish()
        assert run.tables() == straight.tables(), run.place
        assert run.files() == straight.files(), run.place
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("signals", nargs="?", type=int, default=200)
    parser.add_argument("--engine", help="disturb a grid on this engine")
    parser.add_argument("--kills", type=int, default=300, help="how often [300]")
    parser.add_argument("--seed", type=int, default=0, help="of moments and strikes [0]")
    options = parser.parse_args()
    if options.engine:
        return _engine(options.engine, options.kills, options.seed)
    _signals(options.signals)
    return 0


def _engine(engine: str, kills: int, seed: int) -> int:
    """Disturb a grid, with a bar of progress, and report."""
    from soak_engines import GRID, soak

    try:
        Where(engine=engine).start("").close()
    except UsageError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    start = time.monotonic()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder, RichProgress(console=console) as progress:
        task = progress.add_task(f"{engine}: {' '.join(GRID)}", total=kills)
        struck = soak(
            engine, kills, Path(folder), seed, lambda done: progress.update(task, completed=done)
        )
    told = ", ".join(f"{times} {what}" for what, times in sorted(struck.items()))
    took = (time.monotonic() - start) / 60
    print(
        f"{engine}: {struck.total()} strikes ({told}), seed {seed}, {took:.0f} min: equal tables, no file left, no"
        " digest wrong, no finished model made again"
    )
    return 0


def _signals(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for position, name in enumerate(COMMANDS):
            share = count // len(COMMANDS) + (position < count % len(COMMANDS))
            start = time.monotonic()
            ends = soak(name, share, Path(folder) / str(position), position)
            told = ", ".join(f"{times} {how}" for how, times in sorted(ends.items()))
            took = time.monotonic() - start
            print(f"{name}: {share} signals, {told}; {took:.0f} s; no difference", flush=True)


if __name__ == "__main__":
    sys.exit(main())
