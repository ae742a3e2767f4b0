"""What a study says of itself, and how studies are found; nothing here imports torch.

A study is a folder in `dpsnn/studies`, or a plug-in, with a `STUDY`: its commands, figures, tables and its part of the
ledger, each named `module:function` and imported when it is wanted. A new folder is a new command.
"""

import importlib
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpsnn import parts, source
from dpsnn.errors import one_line

GOES_ON = "; call again to go on from the last finished epoch"
"""What an interrupted training says of itself."""


def _nothing(parser: ArgumentParser) -> None:
    """No options."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `dpsnn`."""

    name: str
    action: str
    """What does it, module and function with a colon between; takes the options and returns what it wrote, or None."""
    heading: str = "studies"
    """Under which `dpsnn --help` lists it."""
    said: str = ""
    """One line for `dpsnn --help`."""
    experiments: str = ""
    """Likewise, where `said` is empty, what begins its docstring with that line."""
    about: str = ""
    """What its own `--help` says; by default the same line."""
    options: Callable[[ArgumentParser], object] = _nothing
    """Adds its options to a parser."""
    resume: str = GOES_ON
    """What it says besides when it is interrupted."""
    tidies: bool = True
    """Whether what dead processes left in its folders goes before it begins."""

    def line(self) -> str:
        """What it does, to stand after its name."""
        if self.said:
            return self.said
        module, _, function = self.experiments.partition(":")
        text = source.summary(module, function).rstrip(".")
        # Not where a name begins it, such as LeNet-5.
        return f"{text[0].lower()}{text[1:]}" if text.split()[0][1:].islower() else text


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study brings."""

    commands: tuple[Command, ...]
    figures: str = ""
    """Likewise a dict of the names of files and how each is drawn, from `Results`; `dpsnn figures` draws them all."""
    texts: str = ""
    """Likewise what writes tables of text beside the figures: folders and data set → the files."""
    ledger: str = ""
    """Likewise what gives its part of the ledger: takes the data set, the results and `ledger_options`."""
    title: str = ""
    """Of that part, with the {dataset}; none where it brings its own."""
    ledger_options: Callable[[ArgumentParser], object] = _nothing
    """Options of its own for `dpsnn ledger`."""
    order: int = 50
    """Where it stands among the others; a plain number."""


_told: set[str] = set()


def studies() -> list[Study]:
    """All studies there are, in order; one that cannot be read is named on standard error and takes none with it."""
    found = []
    for each in parts.declared("study"):
        try:
            found.append(parts.find("study", each.key))
        except Exception as error:  # whatever a file may raise
            if each.key not in _told:
                _told.add(each.key)
                print(f"dpsnn: left out: {one_line(error)}", file=sys.stderr)
    return found


def named(name: str) -> Any:
    """What `module:name` stands for; its module, which may bring torch, is imported now and not before."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
