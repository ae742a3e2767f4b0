"""Ctrl-C, SIGTERM as job schedulers send it, SIGHUP of a closed terminal: never lost and never a traceback.

While a command works, a signal raises KeyboardInterrupt, so that everything is kept and tidied up on the way out.
Python swallows an exception in finalisers and in callbacks of its garbage collector and of C libraries, and libraries
may take it for a failure of their own. The wish is therefore remembered: it is raised again soon after it was
swallowed, steps ask for it by `check`, and whatever else comes up after it counts as its consequence. Before a command
works, while its modules are being imported, there is nothing to keep and the process ends at once.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
"""Exit code, as of a shell whose command was ended by Ctrl-C."""
TOGETHER = 1.0
"""Seconds within which a second signal is the same wish: `timeout` signals a process and then its whole group."""
SOON = 0.05
"""Seconds after which a swallowed exception is raised again; by then its finaliser has mostly returned."""


class _State:
    """Of this process: signals are its own, not a caller's."""

    working = False
    asked: float | None = None
    """When the first signal came."""
    held = 0
    again = False
    """Whether the next call of the handler repeats a wish rather than being a new one."""


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"dpsnn: {text}\n".encode())
    os._exit(INTERRUPTED)


def _handle(number: int, frame: FrameType | None) -> None:
    repeated, _State.again = _State.again, False
    now, asked = time.monotonic(), _State.asked
    if asked is not None and not repeated and now - asked <= TOGETHER:
        return
    if not _State.working:
        _end("interrupted")
    if asked is None:
        _State.asked = now
    elif not repeated:
        _end("interrupted again; ended at once")
    if not _State.held:
        raise KeyboardInterrupt


def watch() -> None:
    """Let signals end this process in one line from now on; for processes, not for callers from Python.

    Signals that the process was started to ignore stay ignored; those blocked at its start, lest they meet an
    interpreter that cannot handle them yet, are let through.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def unwatch() -> None:
    """Let signals end this process by their default from now on, once all is said and done."""
    for number in SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """The time in which a command works.

    Raises:
        KeyboardInterrupt: If a signal came, whatever became of its exception, and whatever else it led to.
    """
    if not _is_main_thread():
        yield
        return
    _State.working, _State.asked, _State.held, _State.again = True, None, 0, False
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hook = sys.unraisablehook

    def swallowed(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)
        elif _State.asked is not None:
            timer = threading.Timer(SOON, _repeat)
            timer.daemon = True
            timer.start()

    sys.unraisablehook = swallowed
    try:
        for number in SIGNALS:
            if before[number] not in (signal.SIG_IGN, None):
                signal.signal(number, _handle)
        yield
        check()
    except BaseException as error:
        if _State.asked is None or isinstance(error, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from error
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            if handler is not None:  # None: not from Python, and left alone
                signal.signal(number, handler)
        _State.working = False


def _repeat() -> None:
    if _State.working:
        _State.again = True
        _thread.interrupt_main()


def check() -> None:
    """For every step of what takes long: raise KeyboardInterrupt if a signal came and its exception got lost."""
    if _State.asked is not None and _State.working and not _State.held and _is_main_thread():
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A block that a signal does not interrupt: it is acted upon at the end. For short blocks that belong together."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
    check()


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Processes started in this block never hear what goes to a whole group, Ctrl-C and SIGHUP: it is ours to end them.

    They inherit the mask, and with it the peace in which to start up.
    """
    with held():
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGHUP])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
