"""What stands before the options proper: plug-ins, and files that fill options in.

`--plugin FILE.py` lets the parts in a file be known, `--config FILE.toml` gives options as a file says, and `--like
CHECKPOINT` as a model was made. What is typed as well counts more. No code runs that the user did not name: a
checkpoint says which plug-in it needs, and never loads it.
"""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dpsnn import parts
from dpsnn.errors import UsageError, one_line, reading
from dpsnn.folders import Folders

OPTIONS = {
    "plugin": ("FILE.py", "parts of others to use as well; may be given several times"),
    "config": ("FILE.toml", "options in a file: noise_scale = 0.5"),
    "like": ("CHECKPOINT", "options as this model was made with"),
}
"""Name → what it takes, and what it does."""


class Misplaced(argparse.Action):
    """An option of ours that `given` left where it was, as what stands before it could be a command of its own."""

    def __call__(self, *arguments: Any, **more: Any) -> NoReturn:
        raise UsageError(
            f"{self.option_strings[0]} stands directly behind the command, before anything that is no option"
        )


def given(words: Sequence[str]) -> list[str]:
    """The words of a command line, plug-ins taken into use and files replaced by what they say.

    Raises:
        UsageError: If a file cannot be read, or says what is no option.
    """
    typed: list[str] = []
    asked: dict[str, list[str]] = {name: [] for name in OPTIONS}
    rest = list(words)
    # A command below a command, such as `secure query`, fills in no spec and may have a --config of its own.
    below = len(words) > 1 and not words[1].startswith("-")
    ours = {"plugin"} if below else OPTIONS.keys()
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name.removeprefix("--") not in ours or not name.startswith("--"):
            typed.append(word)
            continue
        if not equals and (not rest or rest[0].startswith("--")):
            raise UsageError(f"{name} names nothing; give it a file")
        asked[name[2:]].append(value if equals else rest.pop(0))
    _use(asked["plugin"], typed)
    filled: list[str] = []
    for model in asked["like"]:
        filled += _like(model, typed)
    for path in asked["config"]:
        filled += _config(path)
    # Behind the command, before what was typed: the last of equal options counts.
    return [*typed[:1], *filled, *typed[1:]]


def _use(plugins: Sequence[str], typed: Sequence[str]) -> None:
    """Take plug-ins into use; who asks what there is gets an answer whatever one of them does wrong."""
    asks = not {"--help", "-h", "--version"}.isdisjoint(typed)
    lists = typed[:1] == ["parts"]
    for path in plugins:
        parts.use(path, tolerant=asks or lists)
    if not asks and not lists:
        parts.require()
    for reason in parts.refused().values() if asks else ():
        print(f"dpsnn: left out: {one_line(reason)}", file=sys.stderr)


def _words(options: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        # Tied by = where it is one, as it may begin with a minus.
        words += [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *map(str, values)]
    return words


def _config(path: str) -> list[str]:
    with reading(path, "a TOML file of options", "correct it"):
        options = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    for name, value in options.items():
        if isinstance(value, dict):
            raise UsageError(f"{path} has a table [{name}]; write options alone: noise_scale = 0.5")
    return _words({name.replace("-", "_"): value for name, value in options.items()})


def _like(model: str, typed: Sequence[str]) -> list[str]:
    """What a checkpoint was made with and is no default; its kind is that which the command makes."""
    from dpsnn import checkpoints  # brings torch, which is asked for only here
    from dpsnn.specs import settings

    kind = checkpoints.ATTACKER if typed[:1] == ["train_attacker"] else checkpoints.CLASSIFIER
    folders = Folders(models_dir=_value(typed, "models_dir") or Folders.models_dir)
    place = folders.attackers if kind == checkpoints.ATTACKER else folders.classifiers
    stored = checkpoints.read(checkpoints.find(place, model, kind), kind)
    spec_of = (
        checkpoints.attacker_spec if kind == checkpoints.ATTACKER else checkpoints.classifier_spec
    )
    spec: Any = spec_of(stored)
    made = {each.name: each.default for each in settings(type(spec))}
    return _words({n: getattr(spec, n) for n, usual in made.items() if getattr(spec, n) != usual})


def _value(words: Sequence[str], name: str) -> str:
    """The value of an option among the words; empty where it is not there."""
    for position, word in enumerate(words):
        if word == f"--{name}" and position + 1 < len(words):
            return words[position + 1]
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return ""
