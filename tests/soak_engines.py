"""A small grid on an engine, disturbed at random moments; `python tests/soak.py --engine local --kills 300` runs it.

A life is the grid from empty folders to its end. Each time something strikes: the command is killed, or one of its
jobs, or a job is told to make room, or no file may grow beyond a few bytes for a while, as on a full disk, or none may
be made or replaced, as on a read-only one, or a second command begins in the same folders. Then the command is called
again, until it ends. What must hold in the end: tables equal those of a life in peace, nothing lies about, the lists of
digests are right, and no model that was finished was made again.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from soak import SMALL, Run

from dpsnn.integrity.folders import pairs
from dpsnn.integrity.look import look
from dpsnn.runner.ahead import job_logs

GRID = ["plain", "--max_epochs", "2", "--attacker_epochs", "1", "--jobs", "2", "--threads", "1"]
MARK = "DPSNN_SOAK_CALL"
"""Variable that tells the processes of one call from all others."""

RUNNER, WORKER, PREEMPT = "command killed", "job killed", "pre-empted"
FULL, READ_ONLY, TWO = "full", "read-only", "two"
STRIKES = {
    "local": (RUNNER, RUNNER, RUNNER, WORKER, WORKER, FULL, READ_ONLY, TWO),
    "submitit": (RUNNER, WORKER, PREEMPT, PREEMPT, TWO),
    # Ray itself cannot start where files may not grow.
    "ray": (RUNNER, WORKER, WORKER, TWO),
}
"""Engine → what strikes; what stands twice does so twice as often."""

PER_LIFE = 6
"""Strikes in a life."""
LONGEST = 600
"""Seconds in which a call ends, or something hangs."""
DIE = {"local": 30, "submitit": 30, "ray": 120}
"""Seconds in which whatever a killed command started ends by itself. Ray's agents look for their server for a minute
before they give up, where it was killed while it began."""


class Call:
    """One call of the command, and all that it starts.

    Args:
        run: The command in its folders.
        limit: Bytes that a file may have; None for as many as there is room for.
    """

    def __init__(self, run: "Life", limit: int | None = None) -> None:
        run.calls += 1
        self.mark, self.dies = f"{run.place}#{run.calls}", DIE[run.engine]
        self.limit, self.hindered = limit, limit is not None
        self.err = run.place / f"err{run.calls}"
        with open(self.err, "w", encoding="utf-8") as err:
            self.process = subprocess.Popen(
                run.command,
                env={**run.environment, MARK: self.mark},
                stdout=subprocess.DEVNULL,
                # No file, where files may not grow: what is said must be heard.
                stderr=err if limit is None else subprocess.PIPE,
                start_new_session=True,
                preexec_fn=None if limit is None else _limited(limit),
            )

    @property
    def goes_on(self) -> bool:
        return self.process.poll() is None

    def alive(self) -> list[int]:
        """Processes of this call, wherever they went; told by what they found in their environment (on Linux)."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        end = time.monotonic() + self.dies
        while left := self.alive():
            assert time.monotonic() < end, f"processes outlive the command: {left}"
            time.sleep(0.1)

    def ended(self) -> int:
        """Wait for the end; the exit code, once nobody is left."""
        _, heard = self.process.communicate(timeout=LONGEST)
        code, said = self.process.returncode, (heard or self.err.read_bytes()).decode()
        assert "Traceback" not in said, said
        allowed = (0, 1, 2, -signal.SIGKILL) if self.hindered else (0, -signal.SIGKILL)
        assert code in allowed, f"{code}: {said}"
        self.kill()
        return code


def _limited(limit: int) -> Callable[[], None]:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return limited


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[bool]:
    """Let no file be made, replaced or removed there; whether that can be had (root needs a file system with flags)."""
    folders = [str(path) for path in (place, *place.rglob("*")) if path.is_dir()]

    def seal(shut: bool) -> None:
        if os.geteuid():
            subprocess.run(["chmod", "u-w" if shut else "u+w", *folders], stderr=subprocess.DEVNULL)
        elif shutil.which("chattr"):
            subprocess.run(["chattr", "+i" if shut else "-i", *folders], stderr=subprocess.DEVNULL)

    seal(True)
    try:
        (place / "sealed").touch()
    except OSError:
        yield True
    else:
        (place / "sealed").unlink()
        yield False
    finally:
        seal(False)


class Life(Run):
    """The grid, from empty folders to its end.

    Args:
        engine: That runs it.
        place: An empty folder.
        draw: Of moments and strikes.
        span: Seconds between two strikes, at most.
    """

    def __init__(self, engine: str, place: Path, draw: random.Random, span: float) -> None:
        command = [sys.executable, "-m", "dpsnn.cli", *GRID, "--engine", engine]
        super().__init__([*command, *SMALL], place)
        self.engine, self.draw, self.span = engine, draw, span
        # Ray's own files; a path of its sockets may have 107 letters.
        self.aside = tempfile.mkdtemp(prefix="soak")
        self.environment["RAY_TMPDIR"] = self.aside
        self.calls = 0
        self.running: list[Call] = []
        self.made: dict[Path, tuple[int, int]] = {}
        self.struck: Counter[str] = Counter()

    def __enter__(self) -> "Life":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for call in self.running:
            call.process.kill()
        shutil.rmtree(self.aside, ignore_errors=True)

    def live(self, strikes: int) -> None:
        """Be struck so often, then end in peace."""
        while sum(self.struck.values()) < strikes:
            self.running = [call for call in self.running if self._still(call)]
            if not self.running:
                self.running.append(Call(self))
            # A third of the moments in the first seconds, as most is read and made ready there.
            time.sleep(self.draw.uniform(0, 3 if self.draw.random() < 0.3 else self.span))
            what = self.draw.choice(STRIKES[self.engine])
            if self._strike(what):
                self.struck[what] += 1
                self.look_at_models()
        for call in self.running:
            call.ended()
        self.running = []
        last = Call(self)
        assert last.ended() == 0
        self.look_at_models()

    def _still(self, call: Call) -> bool:
        if call.goes_on:
            return True
        call.ended()
        return False

    def _strike(self, what: str) -> bool:
        """Whether there was something to strike."""
        if what == RUNNER:
            call = self.draw.choice(self.running)
            call.kill()
        elif what in (WORKER, PREEMPT):
            while not self._at_work() and any(call.goes_on for call in self.running):
                time.sleep(0.1)
            time.sleep(self.draw.uniform(0, 2))
            if not (alive := self._at_work()):
                return False
            with contextlib.suppress(ProcessLookupError):
                number = signal.SIGKILL if what == WORKER else signal.SIGUSR2
                os.kill(self.draw.choice(alive), number)
        elif what == FULL:
            for call in self.running:
                call.kill()
            self.running = [Call(self, self.draw.randrange(500, 100_000))]
        elif what == READ_ONLY:
            with read_only(self.place) as sealed:
                for call in self.running if sealed else ():
                    call.hindered = True
                    call.ended()
            return sealed
        elif len(self.running) > 1:
            return False
        else:
            self.running.append(Call(self))
        return True

    def _at_work(self) -> list[int]:
        """Processes that have begun a job."""
        names = (path.stem for path in job_logs(self.place / "results").glob("*.txt"))
        numbers = {int(name.rpartition("-")[2]) for name in names}
        return [pid for call in self.running for pid in call.alive() if pid in numbers]

    def look_at_models(self) -> None:
        """What is finished stays as it is: nobody makes it again."""
        there = {
            path: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in self.place.glob("models/*/*.ckpt")
        }
        again = [path.name for path, mark in self.made.items() if there.get(path) != mark]
        assert not again, f"made again: {again}"
        self.made = there

    def wrong(self) -> list[str]:
        """What `dpsnn verify` would name."""
        folders = self.place / "models", self.place / "results"
        return [str(finding) for pair in pairs(*folders) for finding in look(pair)]

    def files(self) -> list[str]:
        return [name for name in super().files() if not name.startswith("err")]


def soak(
    engine: str,
    kills: int,
    place: Path,
    seed: int = 0,
    said: Callable[[int], object] = lambda done: None,
) -> Counter[str]:
    """Strike so often, over as many lives as that takes, and compare what each ends with.

    Args:
        engine: That runs the grid.
        kills: Strikes.
        place: An empty folder.
        seed: Of moments and strikes.
        said: Is told after each life how many there were.

    Returns:
        How often what struck.
    """
    draw = random.Random(seed)
    struck: Counter[str] = Counter()
    with Life(engine, place / "straight", draw, 0) as straight:
        start = time.monotonic()
        straight.live(0)
        seconds = time.monotonic() - start
        assert straight.wrong() == []
        while (done := sum(struck.values())) < kills:
            with Life(engine, place / str(done), draw, seconds) as life:
                life.live(min(PER_LIFE, kills - done))
                assert life.tables() == straight.tables(), life.place
                assert life.files() == straight.files(), life.place
                assert life.wrong() == [], life.place
                struck += life.struck
            shutil.rmtree(life.place)
            said(sum(struck.values()))
    return struck
