"""A wish to end is never lost, whoever swallows its exception, and says one line."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from dpsnn import signals

BOTH = pytest.mark.parametrize("number", signals.SIGNALS)


def strike(number: signal.Signals) -> None:
    """A signal, which Python acts upon within the next statements."""
    os.kill(os.getpid(), number)
    time.sleep(0.001)


def wait() -> None:
    """Work that asks nobody; far longer than a swallowed exception needs to come back."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.01)


class Dying:
    """Struck while it is taken away; in a cycle, by the garbage collector alone."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.own = self

    def __del__(self) -> None:
        strike(self.number)


def in_collection(number: signal.Signals) -> None:
    Dying(number)
    gc.collect()


def in_finaliser(number: signal.Signals) -> None:
    made = Dying(number)
    made.own = made.number  # type: ignore[assignment]
    del made


def in_weak_reference(number: signal.Signals) -> None:
    class Plain:
        pass

    made = Plain()
    kept = weakref.ref(made, lambda _: strike(number))
    del made
    assert kept() is None


def in_callback(number: signal.Signals) -> None:
    ctypes.CFUNCTYPE(None)(lambda: strike(number))()


def in_library(number: signal.Signals) -> None:
    try:
        strike(number)
    except:  # noqa: E722
        pass
    signals.check()


def as_failure(number: signal.Signals) -> None:
    try:
        strike(number)
    except BaseException as error:
        raise RuntimeError("a library took it for its own") from error


@BOTH
@pytest.mark.parametrize(
    "swallow",
    [in_collection, in_finaliser, in_weak_reference, in_callback, in_library, as_failure, strike],
)
def test_a_signal_is_not_lost(
    capfd: pytest.CaptureFixture[str],
    swallow: Callable[[signal.Signals], None],
    number: signal.Signals,
) -> None:
    before = [signal.getsignal(each) for each in signals.SIGNALS]
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        swallow(number)
        wait()
        pytest.fail("the signal got lost")
    assert [signal.getsignal(each) for each in signals.SIGNALS] == before
    assert capfd.readouterr().err == ""


def test_twelve_of_twelve_signals_in_the_garbage_collector_arrive() -> None:
    arrived = 0
    for _ in range(12):
        try:
            with signals.interruptible():
                in_collection(signal.SIGINT)
                wait()
        except KeyboardInterrupt:
            arrived += 1
    assert arrived == 12


@BOTH
def test_a_held_block_is_finished_first(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        with signals.held():
            strike(number)
            done.append("block")
        done.append("after")
    assert done == ["block"]


def test_a_signal_at_the_very_end_counts() -> None:
    with pytest.raises(KeyboardInterrupt), signals.interruptible(), signals.held():
        strike(signal.SIGINT)


def test_other_exceptions_pass_and_other_unraisable_ones_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise OverflowError

    with pytest.raises(LookupError, match="own"), signals.interruptible():
        Broken()
        raise LookupError("own")
    assert told == [OverflowError]


WORK = """
import sys, time
from dpsnn import signals
signals.watch()
print("watched", flush=True)
time.sleep(0.2)
try:
    with signals.interruptible():
        print("working", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr, flush=True)
    raise SystemExit(130)
"""


def process() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WORK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


@BOTH
@pytest.mark.parametrize(
    "moment, said", [("watched", "dpsnn: interrupted"), ("working", "interrupted")]
)
def test_a_process_ends_in_one_line(moment: str, said: str, number: signal.Signals) -> None:
    running = process()
    assert running.stdout
    while running.stdout.readline().strip() != moment:
        pass
    running.send_signal(number)
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, f"{said}\n")


def test_the_same_signal_to_process_and_group_is_one_wish_and_a_later_one_ends_at_once() -> None:
    work = """print("working", flush=True)
        time.sleep(60)"""
    tidying = """try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            print("tidying", file=sys.stderr, flush=True)
            time.sleep(60)"""
    running = subprocess.Popen(
        [sys.executable, "-c", WORK.replace(work, tidying)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout and running.stderr
    while running.stdout.readline().strip() != "working":
        pass
    for _ in range(2):
        running.send_signal(signal.SIGTERM)
    assert running.stderr.readline() == "tidying\n"
    time.sleep(signals.TOGETHER + 0.3)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "dpsnn: interrupted again; ended at once\n")


def test_signals_that_wait_at_the_start_are_let_through() -> None:
    def blocked() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)

    running = subprocess.Popen(
        [sys.executable, "-c", WORK],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=blocked,
    )
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (130, "", "dpsnn: interrupted\n")


def test_a_process_started_to_ignore_ctrl_c_goes_on_ignoring_it() -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", WORK.replace("sleep(60)", "sleep(1)")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,
    )
    assert running.stdout
    while running.stdout.readline().strip() != "working":
        pass
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_child_never_hears_what_goes_to_the_whole_group(number: signal.Signals) -> None:
    with signals.blocked():
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(0.3); print(2)"],
            stdout=subprocess.PIPE,
            text=True,
        )
    assert child.stdout and child.stdout.readline() == "1\n"
    child.send_signal(number)
    assert (child.communicate(timeout=30)[0], child.returncode) == ("2\n", 0)
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
