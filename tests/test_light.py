"""Nobody waits for torch who asks for help or mistypes an option; what `--help` lists is what there is."""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpsnn import cli, parts, source
from dpsnn.data import DATASETS
from dpsnn.networks import NETWORKS
from dpsnn.options import choices
from dpsnn.studies.titcombe.published import published_experiments

ASKED = """
import sys
from dpsnn.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "pandas", "matplotlib", "pytorch_lightning", "scipy", "wandb", "flwr"}
print(*sorted(heavy & sys.modules.keys()), file=sys.stderr)
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    "words, code",
    [
        ("--help", 0),
        ("--version", 0),
        ("train_model --help", 0),
        ("plain --help", 0),
        ("audit --help", 0),
        ("secure query --help", 0),
        ("federated --help", 0),
        ("", 2),
        ("nois", 2),
        ("train_model --noise 1", 2),
        ("audit --noise much", 2),
        ("train_model --max_epochs many", 2),
        ("plain --dataset Digits", 2),
        ("secure share", 2),
    ],
)
def test_help_and_typing_errors_import_nothing_heavy(words: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *words.split()], capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == ""
    assert len(done.stderr.splitlines()) == (2 if code else 1)


def test_names_read_from_the_source_are_those_of_the_registries() -> None:
    known = choices()
    assert known["dataset"] == known["surrogate"] == sorted(DATASETS)
    assert known["network"] == sorted(NETWORKS)
    for kind in ("dataset", "network", "decoder", "defence"):
        for each in parts.declared(kind):
            assert parts.find(kind, each.key).__name__ == each.name


def test_a_summary_is_the_first_paragraph() -> None:
    text = source.summary("dpsnn.studies.titcombe.published", "published_experiments")
    assert text == " ".join((published_experiments.__doc__ or "").split("\n\n")[0].split())


def test_a_function_that_says_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unread.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    source._parsed.cache_clear()
    with pytest.raises(LookupError, match="unread has no documented function"):
        source.summary("unread", "nothing")


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every command with an action of its own, however deep."""
    if parser.get_default("action"):
        yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)


def test_every_command_has_something_to_do() -> None:
    found = list(commands(cli.make_parser()))
    assert len(found) > 30
    for parser in found:
        module, _, function = parser.get_default("action").partition(":")
        assert callable(getattr(importlib.import_module(module), function)), parser.prog
