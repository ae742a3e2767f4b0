"""What jobs do in the tests of engines; processes elsewhere find these functions by their names."""

import os
import signal
import time
from pathlib import Path

import torch


def said(text: str) -> str:
    return f"{text} in {os.getcwd()} with {torch.get_num_threads()} and {os.environ['DPSNN_SAID']}"


def wrong(text: str) -> str:
    raise ValueError(f"wrong:\n {text}")


def once_killed(mark: str) -> str:
    """The first time its process ends without a word."""
    if Path(mark).exists():
        return "killed once"
    Path(mark).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def always_killed(mark: str) -> str:
    with open(mark, "a", encoding="utf-8") as file:
        file.write("killed\n")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def preempted(mark: str) -> str:
    """The first time it is told, as submitit is by SLURM, to make room."""
    if Path(mark).exists():
        return "called again"
    Path(mark).touch()
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(60)
    return "not heard"


def endless(mark: str) -> str:
    Path(mark).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)
    return "never"


def on_slurm(mark: str) -> str:
    """Which task of which array it is."""
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
