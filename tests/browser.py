"""A headless Chromium, spoken to in its own protocol over two pipes: no driver and no package is needed.

https://chromedevtools.github.io/devtools-protocol; with `--remote-debugging-pipe` it takes commands on its descriptor 3
and answers on 4, JSON with a zero byte behind each.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")

PATIENCE = 30.0
"""Seconds until an answer."""


def chromium() -> str:
    """Where a Chromium is: what DPSNN_CHROMIUM names, else the first on the PATH; empty where there is none."""
    named = os.environ.get("DPSNN_CHROMIUM", "")
    return named or next((path for name in NAMES if (path := shutil.which(name))), "")


class Browser:
    """One page in a browser; whatever it complains of is kept in `complaints`."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._number, self._page = to, back, b"", 0, ""
        self.complaints: list[str] = []
        self.fetched: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._page = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def _ask(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._page} if self._page else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._hear()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _hear(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            some = os.read(self._back, 1 << 20)
            assert some, "the browser is gone"
            self._rest += some
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.fetched.append(params["request"]["url"])

    def look(
        self, width: int = 1280, height: int = 900, dark: bool = False, media: str = ""
    ) -> None:
        """As on a screen of this many pixels; narrow ones are phones."""
        phone = width < 600
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def scripts(self, on: bool) -> None:
        self._ask("Emulation.setScriptExecutionDisabled", value=not on)

    def open(self, address: str) -> None:
        self._ask("Page.navigate", url=address)
        end = time.monotonic() + PATIENCE
        while True:
            state = self.run("document.readyState + location.href")
            if state == f"complete{address}":
                return
            assert time.monotonic() < end, state
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """The value of an expression."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def key(self, name: str, code: int, text: str = "") -> None:
        """Press a key, as `ArrowRight`, 39."""
        told = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        self._ask(
            "Input.dispatchKeyEvent", type="keyDown", **told, **({"text": text} if text else {})
        )
        self._ask("Input.dispatchKeyEvent", type="keyUp", **told)

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element, which is scrolled to first."""
        at = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', inline: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._ask(
                "Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1
            )

    def picture(self, path: Path, whole: bool = True) -> Path:
        """A screenshot, of the whole page or of what is seen of it."""
        found = self._ask(
            "Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole)
        )
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def _clip(self, whole: bool) -> dict[str, Any]:
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "x": 0, "y": 0, "scale": 1}} if whole else {}

    def paper(self, path: Path) -> Path:
        """As it is printed."""
        found = self._ask("Page.printToPDF", printBackground=True)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def names(self) -> list[tuple[str, str]]:
        """What a screen reader is told: role and name of all that has one."""
        nodes = self._ask("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser that keeps all it writes in `folder`, and is gone after the block."""
    (read, to), (back, write) = os.pipe(), os.pipe()
    # Out of the way of 3 and 4, which the browser's own ends become.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write)]

    def wire() -> None:
        for number, end in zip((3, 4), ends):
            os.dup2(end, number)

    command = [chromium(), "--headless", "--remote-debugging-pipe", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--hide-scrollbars"]
    # Chromium has no sandbox for root, as whom containers run.
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        command,
        pass_fds=(3, 4),
        preexec_fn=wire,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (read, write, *ends):
        os.close(end)
    try:
        yield Browser(to, back)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
        os.close(to)
        os.close(back)
