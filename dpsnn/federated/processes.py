"""The processes of one run: Flower's SuperLink, the SuperExec that starts its ServerApp, and a process for each client.

They talk over loopback TCP.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpsnn import ports, signals
from dpsnn.errors import UsageError
from dpsnn.federated.spec import Settings
from dpsnn.ports import HOST

START = 180.0
"""Seconds that a process may take to start: importing takes some on a busy machine."""
POLL = 0.2

APP = """\
[project]
name = "dpsnn-federated"
version = "1.0.0"
description = "Federated training; the code is the installed dpsnn"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "dpsnn"

[tool.flwr.app.components]
serverapp = "dpsnn.federated.server:app"
clientapp = "dpsnn.federated.client:app"

[tool.flwr.app.config]
settings = ""
"""

CONNECTION = """\
[superlink]
default = "local"

[superlink.local]
address = "{address}"
insecure = true
"""


class Failed(UsageError):
    """A process of the run ended that should not have, or could not do its part."""


def process_commands(
    settings: str, clients: int, port: int | str, parent: int | str
) -> dict[str, list[str]]:
    """What a run consists of, by name; all of them end with process `parent`, which starts them.

    They speak with one another on this machine alone, hence without TLS.
    """
    python, address = [sys.executable, "-m"], f"{HOST}:{port}"
    flower = [*python, "dpsnn.federated.flower", str(parent)]
    node = [*python, "dpsnn.federated.node", "--superlink", address, "--settings", settings]
    # "process": the SuperExec is ours to start. The one that a SuperLink starts has a session of its own, where no
    # signal for the SuperLink's reaches it or its ServerApp.
    own = ["--insecure", "--isolation", "process", "--disable-runtime-dependency-installation"]
    return {
        "superlink": [*flower, "flower-superlink", *own, "--host", HOST, "--port", str(port)],
        **{
            f"client_{index}": [*node, "--partition", str(index), "--parent", str(parent)]
            for index in range(clients)
        },
        "superexec": [*flower, "flower-superexec", "--insecure", "--runtime-api-address", address],
    }


def run_command(app: str, settings: str) -> list[str]:
    flwr = str(Path(sys.executable).with_name("flwr"))
    return [
        flwr,
        "run",
        app,
        "local",
        "--run-config",
        f"settings={json.dumps(settings, ensure_ascii=False)}",
    ]


class Processes:
    """Start everything that a run needs, follow it, and leave nothing behind, whatever happens.

    Args:
        settings: Of the run; its folder holds what passes between the processes.
        logs: Folder for their output, a file each.
    """

    def __init__(self, settings: Settings, logs: Path) -> None:
        self.settings = settings
        self.folder = Path(settings.folder)
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self.folder / "flwr"),
            # Neither usage statistics nor a look for updates leaves the machine.
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            # Processes share the cores; more threads than cores would wait for one another.
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> "Processes":
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _start_all(self) -> None:
        port = ports.free()
        settings = str(self.settings.write())
        home = self.folder / "flwr"
        app = self.folder / "app"
        for made in (home, app):
            made.mkdir()
        (home / "config.toml").write_text(CONNECTION.format(address=f"{HOST}:{port}"))
        (app / "pyproject.toml").write_text(APP)
        clients = self.settings.federated.clients
        started = process_commands(settings, clients, port, os.getpid())
        launcher = started.pop("superexec")
        for name, command in started.items():
            self._start(name, command)
        self._wait_for_superlink(port)
        self._start("superexec", launcher)
        done = subprocess.run(
            run_command(str(app), settings), env=self.environment, capture_output=True, text=True
        )
        (self.logs / "run.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise Failed(f"Flower did not take the run; see {self.logs / 'run.log'}")

    def _start(self, name: str, command: list[str]) -> None:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order, and the
        # SuperExec's ServerApp with it.
        with open(self.logs / f"{name}.log", "wb") as log, signals.held():
            self.running[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_superlink(self, port: int) -> None:
        end = time.monotonic() + START
        while time.monotonic() < end:
            self.check()
            try:
                with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=1):
                    return
            except OSError:
                time.sleep(POLL)
        raise Failed(f"the SuperLink did not start within {START:.0f} s; see {self.logs}")

    def check(self) -> None:
        """Notice processes that ended.

        Raises:
            Failed: If Flower's own did, or more clients than a run can lose or was told to.
        """
        ended = [name for name, process in self.running.items() if process.poll() is not None]
        for name, called in (("superlink", "SuperLink"), ("superexec", "SuperExec")):
            if name in ended:
                raise Failed(f"the {called} ended early; see {self.logs / name}.log")
        if len(ended) > self.settings.federated.spare:
            raise Failed(
                f"{len(ended)} clients ended early, more than the run can lose; see {self.logs / ended[0]}.log"
            )

    def events(self) -> Iterator[dict[str, Any]]:
        """What the server notes, as it does so, up to `done`.

        Raises:
            Failed: If the server gave up, or has said nothing for longer than a round may take.
        """
        path, seen = self.folder / "events.jsonl", 0
        patience = START + 5 * float(self.settings.federated.timeout)
        end = time.monotonic() + patience
        while True:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
            for line in lines[seen:]:
                event: dict[str, Any] = json.loads(line)
                if "error" in event:
                    (self.logs / "server.log").write_text(event["trace"], encoding="utf-8")
                    raise Failed(f"{event['error']}; the logs are in {self.logs}")
                yield event
                if event.get("done"):
                    return
                end = time.monotonic() + patience
            if len(lines) == seen:
                self.check()
                if time.monotonic() > end:
                    raise Failed(
                        f"the server has been silent for {patience:.0f} s; see {self.logs}"
                    )
                time.sleep(POLL)
            seen = len(lines)

    def stop(self) -> None:
        """End every process and its children: politely first, so that each can clean up."""
        for process in self.running.values():
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + 5
        for process in self.running.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
        end = time.monotonic() + 5
        for process in self.running.values():
            # Until nobody is left who could write into the folder, which is deleted next.
            while _signal(process, signal.SIGKILL) and time.monotonic() < end:
                process.poll()
                time.sleep(POLL / 4)
            process.wait()
        self.running.clear()


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> bool:
    """To the whole session, also to children that outlived their parent; whether there was anybody."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
