"""What a plug-in must not say, how it is refused, and what goes on without it."""

import argparse
import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dpsnn import checkpoints, parts, registry, rules, source
from dpsnn.attacks import Attack
from dpsnn.cli import main, make_parser
from dpsnn.defences import Defence
from dpsnn.errors import Lacking, NoSetting, UsageError
from dpsnn.evaluation.attackers import attacker_row
from dpsnn.evaluation.classifiers import classifier_row
from dpsnn.folders import Folders
from dpsnn.metrics.base import known
from dpsnn.parts import option
from dpsnn.runner import run
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.leaving import LeftOut
from dpsnn.specs import AttackerSpec, ClassifierSpec, afterwards, plain, replace

FileMaker = Callable[..., Path]

HEAD = """
from dataclasses import dataclass

from dpsnn import parts
from dpsnn.attacks import Attack
from dpsnn.data import ImageDataModule
from dpsnn.defences import Defence, DefenceModule
from dpsnn.networks import SplitNetwork
from dpsnn.parts import decoder, network, option
"""


def part(body: str, base: str = "Defence", name: str = "Mine", key: str = "mine") -> str:
    """The source of a class that is a part, one line of its body behind another."""
    lines = "\n    ".join([f'key = "{key}"', *body.split("\n")])
    return f'\n\n@dataclass(frozen=True, kw_only=True)\nclass {name}({base}):\n    """Mine."""\n\n    {lines}\n'


GOOD = part('rate: float = option(0.0, "share")')


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own; no plug-in is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(registry.PLUGINS, "")
    yield tmp_path
    registry._others.cache_clear()


def write(code: str, name: str = "mine.py") -> Path:
    Path(name).write_text(HEAD + code)
    return Path(name).resolve()


def named(*paths: Path) -> None:
    """As a user names plug-ins in the environment."""
    os.environ[registry.PLUGINS] = os.pathsep.join(map(str, paths))


# ---------------------------------------------------------------- declarations


def first(default: str, annotation: str = "float", more: str = "") -> str:
    return part(f'rate: {annotation} = option({default}, "share"{more})')


def second(default: str, annotation: str, more: str = "") -> str:
    return part(
        f'rate: float = option(0.0, "share")\nelse_: {annotation} = option({default}, "else"{more})'
    )


NETWORK = '\n\n@network\ndef {}(image_shape, num_classes, mean=0.0, std=1.0):\n    """Mine."""\n'

BAD = {
    # Whether it is on.
    first("0.3"): "the strength mine_rate, whose default is 0.3, not off",
    first('"flip"', "str"): "the strength mine_rate, whose default is 'flip', not off",
    part("noisy = True"): "the defence mine has no option, so that nothing can turn it on",
    second("True", "bool"): "mine_else_ is a bool that is not False by default",
    second("None", "bool | None"): "mine_else_ is a bool that is not False by default",
    # Keys.
    part('rate: float = option(0.0, "share")', key="noise"): (
        "brings the defence noise, which there is already"
    ),
    NETWORK.format("titcombe"): "brings the network titcombe, which there is already",
    NETWORK.format("twice") * 2: "brings the network twice, which there is already",
    GOOD * 2: "brings the defence mine, which there is already",
    **{
        part('rate: float = option(0.0, "share")', key=key): f"is called {key!r}; a key has small"
        for key in ("a/b", "my key", "", "Mine", "2nd", "mine.py")
    },
    'NAME = "mine"' + GOOD.replace('key = "mine"', "key = NAME"): "no plain text; write it out",
    # Names of options.
    **{
        first("0.0", more=f', name="{name}"'): f"the option {name} of mine is one of the commands"
        for name in ("seed", "model", "plugin", "help", "jobs", "dry_run", "surrogate")
    },
    first("0.0", more=', name="nopeek_weight"'): "is one of the defence nopeek",
    first(
        "0.0", more=', name="model_noise"'
    ): "the option model_noise of mine is one of the defence noise",
    first(
        "0.0", more=', after="model_noise"'
    ): "the option model_noise of mine is one of the defence",
    first("0.0", more=', after="steps"'): "the option steps of mine is one of",
    first("0.0", more=', name="my rate"'): "the option 'my rate' of mine must have small letters",
    second(
        "0.0", "float", ', name="mine_rate"'
    ): "the option mine_rate of mine is one of the defence",
    part('steps: int = option(7, "steps", name="steps")', "Attack"): (
        "the option steps of mine has the default 7, and that of the attack"
    ),
    part('steps: int = option(7, "steps", name="model")', "Attack"): "is one of the commands",
    part('b_c: float = option(0.0, "c")', name="A", key="a")
    + part('c: float = option(0.0, "c")', name="B", key="a_b"): "the option a_b_c of a_b is one of",
    # Columns.
    **{
        first(
            "0.0", more=f', column="{column}"'
        ): f"the column {column} of mine_rate says something"
        for column in ("TestAcc", "Seed", "NoiseScale", "TrainNoiseScale", "MSE", "Measures")
    },
    second(
        "0.0", "float", ', column="MineRate"'
    ): "the column MineRate of mine_else_ says something",
    first("0.0", more=', column="a,b"'): "the column 'a,b' of mine_rate must have letters",
    # What an option says.
    first("-1.0"): "the strength mine_rate, whose default is -1.0, not off",
    second("-1.0", "float"): "refuses its own default: the default is -1.0; it must be a finite",
    first("0.0", more=', check="positive"'): "refuses its own default: the default is 0.0",
    second("1.0", "float", ', check="share"'): "refuses its own default: the default is 1.0",
    second(
        "1", "int", ", least=2"
    ): "refuses its own default: the default is 1; it must be a whole",
    second('"x"', "float"): "has the default 'x', which is no float",
    second("0.5", "int"): "has the default 0.5, which is no int",
    second("True", "int"): "has the default True, which is no int",
    second("None", "float"): "has the default None, which is no float",
    second("0", "str"): "has the default 0, which is no str",
    first("0.0", more=', least="a"'): "has least='a'; it must be of type int",
    first("0.0", more=", text=3"): "says nothing",
    first(
        "0.0", more=', check="shair"'
    ): "has check='shair'; choose from ['free', 'positive', 'share']",
    second("0", "int", ', check="share"'): "says check, which is for floats",
    first("0.0", more=", least=1"): "says least, which is for whole numbers",
    first("0.0", more=', chek="share"'): "says chek, which no option has",
    second('""', "str", ', after="model_mine"'): "says after, which only numbers of defences may",
    first("[]", "list"): "is of type list; an option is a float, an int, a bool or a str",
    first("0.0", "float | str"): "is of type float | str; an option is",
    first("1 / 3"): "cannot be read from its source",
    part('rate: float = option(0.0, "")'): "needs a default and a line for --help",
    part('rate: float = option(text="share")'): "needs a default and a line for --help",
    part('rate = option(0.0, "share")'): "has no type; write rate: float = option",
    # Attributes.
    part('version = 0\nrate: float = option(0.0, "share")'): "has version = 0; it must be a whole",
    part('order = "first"\nrate: float = option(0.0, "share")'): "has order = 'first'; it must be",
    part('since = 1\nrate: float = option(0.0, "share")'): "has since = 1, but files of then",
    part(
        'always = True\nrate: float = option(0.0, "share")'
    ): "has always = True, which would rename",
    # What it derives from.
    part(
        'rate: float = option(0.0, "share")', "Dropping"
    ): "derives from Dropping, which is no base",
    part('rate: float = option(0.0, "share")', "object"): "derives from object, which is no base",
    "from dpsnn.defences.noise import Laplace\n"
    + part("always = False", "Laplace"): (
        "the option model_noise of mine is one of the defence noise"
    ),
    part(
        'size: int = option(3, "size")', "ImageDataModule"
    ): "which only defences and attacks have",
}
del BAD[first("0.0", more=", text=3")]


@pytest.mark.parametrize("code", BAD, ids=range(len(BAD)))
def test_a_part_that_breaks_a_rule_is_refused_in_a_line(
    place: Path, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(code)
    with pytest.raises(UsageError) as refused:
        registry.use(path)
    line = str(refused.value)
    assert BAD[code] in line and str(path) in line and "\n" not in line
    assert registry.plugins() == [] and "no Python" not in line
    # Named in the environment: it is refused as well, and what there is beside it is told.
    named(path)
    assert main(["train_model"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"dpsnn: {line}"]
    assert [each.key for each in parts.declared("defence")][:2] == ["noise", "gaussian"]


@pytest.mark.parametrize(
    "code",
    [
        part('rate: float = parts.option(0.0, "share")'),
        part('rate: float = option(default=0.0, text="share", wanted="a share")'),
        part('rate: "float" = option(0, "share")'),
        part('rate: int | float = option(0, "share")'),
        "from dpsnn.parts import option as o\n" + part('rate: float = o(0.0, "share")'),
        "from dpsnn.defences import Defence as D\n" + GOOD.replace("(Defence)", "(D)"),
    ],
    ids=range(6),
)
def test_an_option_is_understood_however_it_is_written(place: Path, code: str) -> None:
    registry.use(write(code))
    (made,) = next(each for each in parts.declared("defence") if each.key == "mine").options
    assert (made.name, made.kind, made.default, made.text) == ("mine_rate", float, 0, "share")
    spec = ClassifierSpec(mine_rate=0.5)
    assert [part.rate for part in spec.active] == [0.5] and spec.mine_rate == 0.5


def test_a_defence_may_say_itself_when_it_is_on(place: Path) -> None:
    registry.use(
        write(f"{first('2', 'int')}\n    @property\n    def on(self): return self.rate < 2\n")
    )
    assert ClassifierSpec().active == () and ClassifierSpec(mine_rate=1).active[0].rate == 1


def test_types_may_be_postponed(place: Path) -> None:
    postponed = f"from __future__ import annotations\n{HEAD}"
    Path("mine.py").write_text(postponed + first("0.0", more=', check="share"'))
    registry.use("mine.py")
    assert ClassifierSpec(mine_rate=0.25).active[0].legend() == "mine 0.25"
    with pytest.raises(UsageError, match="mine_rate is 1.5; it must be from 0 to below 1"):
        ClassifierSpec(mine_rate=1.5)


def test_options_are_inherited_within_a_file_and_from_parts_of_ours(place: Path) -> None:
    base = '\n\n@dataclass(frozen=True, kw_only=True)\nclass Rated(Defence):\n    rate: float = option(0.0, "r")\n'
    code = "from dpsnn.defences.clip import *\nfrom dpsnn.defences import clip\n" + base
    code += part("order = 5", "Rated", "A", "a")
    code += part('rate: float = option(0.0, "s")\nmore: int = option(3, "m")', "A", "B", "b")
    own = next(each for each in parts.declared("defence") if each.key == "clip")
    code += part('extra: int = option(1, "e")', f"clip.{own.name}", "C", "c")
    registry.use(write(code))
    known = {each.key: each for each in parts.declared("defence")}
    assert [made.name for made in known["a"].options] == ["a_rate"]
    assert [(made.name, made.text) for made in known["b"].options] == [
        ("b_rate", "s"),
        ("b_more", "m"),
    ]
    assert known["b"].order == known["a"].order == 5 and known["c"].order == own.order
    assert [made.name for made in known["c"].options] == ["c_std", "c_radius", "c_extra"]
    assert [made.column for made in known["c"].options] == ["CStd", "CRadius", "CExtra"]
    spec = ClassifierSpec(a_rate=1.0, b_more=4, c_radius=2.0)
    assert (spec.a_rate, spec.b_more, spec.c_radius, spec.clip_radius) == (1.0, 4, 2.0, 1.0)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            'raise RuntimeError("no licence")\n' + GOOD,
            "RuntimeError in mine.py, line 10: no licence",
        ),
        ("raise SystemExit\n" + GOOD, "SystemExit in mine.py, line 10"),
        (GOOD.replace("@dataclass(frozen=True, kw_only=True)", ""), "its class has"),
        (
            GOOD + "    noise: float = parts.field(default=1.0, metadata={'help': ''})\n",
            "in mine.py",
        ),
        (part('check: float = option(0.0, "share")'), "hides what every defence has"),
        (GOOD + "\n    @property\n    def on(self): return True\n", "it is on by default"),
        (GOOD + "\n    def columns(self, record): return {'TestAcc': 1}\n", "its column TestAcc"),
        (GOOD.replace('key = "mine"', 'key = "mine"\n    version = 1 + 1'), "version"),
    ],
    ids=range(8),
)
def test_what_fails_when_it_is_imported_is_a_line(
    place: Path, code: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named(write(code))
    if "1 + 1" in code:
        with pytest.raises(UsageError, match="has version = None"):
            registry.require()
        return
    with pytest.raises(UsageError) as refused:
        parts.find("defence", "mine")
    assert message in str(refused.value) and "the defence mine cannot be used here" in str(
        refused.value
    )
    assert main(["parts"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not here: the defence mine cannot" in said and "federated" in said


def test_a_broken_plug_in_stops_neither_the_list_of_parts_nor_help(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = write(first("0.3"), "bad.py"), write(GOOD, "good.py")
    words = ["--plugin", str(bad), "--plugin", str(good)]
    assert main(["parts", *words]) == 0
    out, err = capsys.readouterr()
    said = " ".join(out.split())
    assert "left out:" in said and f"(plug-in {good.name})" in said and err == ""
    assert "has the strength mine_rate, whose default is 0.3" in said and "--noise_scale" in said
    for asked in (["--help"], ["train_model", "--help"]):
        assert main([*asked, *words]) == 0
        out, err = capsys.readouterr()
        assert err.startswith(f"dpsnn: left out: {bad}: the defence mine") and err.count("\n") == 1
        assert ("--mine_rate" in out) == (len(asked) > 1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("with:colon/mine.py", "has a ':' in its path"),
        ("mine.txt", "is no Python file; name one"),
        ("folder.py", "cannot read the plug-in"),
        ("gone.py", "No such file"),
    ],
)
def test_a_path_that_will_not_do_is_refused(place: Path, path: str, message: str) -> None:
    Path("with:colon").mkdir()
    Path("folder.py").mkdir()
    for name in ("with:colon/mine.py", "mine.txt"):
        write(GOOD, name)
    with pytest.raises(UsageError, match=message):
        registry.use(path)
    assert registry.plugins() == []


def test_a_file_is_one_however_its_path_is_written(place: Path) -> None:
    write(GOOD)
    os.environ[registry.PLUGINS] = os.pathsep.join(["mine.py", str(place / "mine.py")])
    registry.use("../" + place.name + "/mine.py")
    assert registry.plugins() == [str(place / "mine.py")] and registry.refused() == {}
    assert registry.plugin_words() == ["--plugin", str(place / "mine.py")]


def test_a_package_that_breaks_a_rule_is_listed_and_stops_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(first("0.3"), "installed_bad.py")
    write(GOOD, "installed_good.py")
    monkeypatch.syspath_prepend(place)
    points = [
        registry.metadata.EntryPoint("parts", f"installed_{name}", registry.GROUP)
        for name in ("bad", "gone", "good")
    ]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points)
    registry.forget()
    registry.require()
    assert {*registry.refused()} == {"installed_bad", "installed_gone"}
    assert ClassifierSpec(mine_rate=0.5).mine_rate == 0.5
    assert main(["parts"]) == 0
    assert "installed_bad: the defence mine has the strength" in capsys.readouterr().out
    # A plug-in may not have its key.
    with pytest.raises(UsageError, match="brings the defence mine, which there is already"):
        registry.use(write(GOOD, "mine.py"))


# ---------------------------------------------------------------- our own


def test_parts_of_ours_keep_the_rules_and_are_what_their_sources_say() -> None:
    known: list[parts.Declared] = []
    for kind in registry.PACKAGES:
        for each in registry._own(kind):
            assert rules.complaint(each, known) == "", each.key
            assert rules.mismatch(each, parts.find(kind, each.key)) == "", each.key
            known.append(each)
    assert len(known) > 30


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every command with an action of its own, however deep."""
    if parser.get_default("action"):
        yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from commands(below)


def test_no_part_may_take_an_option_of_a_command() -> None:
    there = {"version"}
    for parser in commands(make_parser()):
        there |= {word[2:] for action in parser._actions for word in action.option_strings}
        there |= {action.dest for action in parser._actions} | {*parser._defaults}
    of_parts = {m.name for k in ("defence", "attack") for e in registry._own(k) for m in e.options}
    there -= {"==SUPPRESS==", "", *(of_parts - rules.SHARED), *afterwards()}
    assert there <= rules.TAKEN
    assert rules.TAKEN - there == {"command", "defences", "own", "was", "changes"}


def test_no_part_may_take_a_column_of_a_row(
    tmp_path: Path, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    target = classifier_file(tmp_path)
    row = {
        *classifier_row(target, "data"),
        *attacker_row(attacker_file(tmp_path, target), tmp_path, "data", None, 8)[0],
    }
    every = (m for k in ("defence", "attack") for e in registry._own(k) for m in e.options)
    of_parts = {
        column for m in every if m.name not in rules.SHARED for column in rules.columns_of(m)
    }
    # A metric says its columns itself, and is refused where one is taken.
    of_metrics = {column for metric in known() for column in metric.columns().values()}
    assert sorted(row - of_parts - of_metrics - rules.COLUMNS) == []


# ---------------------------------------------------------------- what is off, and what says nothing


@pytest.mark.parametrize("words", ["--clip_radius 2", "--nopeek_exponent 2", "--mine_soft"])
def test_a_setting_of_what_is_off_is_refused(
    place: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(second("False", "bool", ', name="mine_soft"'))
    assert main(["train_model", "--plugin", str(path), *words.split()]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{words.split()[0][2:]} says nothing without --" in line
    # Nor is it in a file, where it would ask for the plug-in, nor in a command that is printed.
    assert "mine_rate" not in plain(ClassifierSpec(mine_soft=True))
    spec = ClassifierSpec(clip_radius=2.0)
    assert "clip_radius" not in run.command("train_model", spec, Folders())
    assert "--clip_std 1.0 --clip_radius 2.0" in run.command(
        "train_model", replace(spec, clip_std=1.0), Folders()
    )


def test_a_strength_in_words_has_a_legend_and_a_name(place: Path) -> None:
    registry.use(write(first('""', "str")))
    spec = ClassifierSpec(mine_rate="flip")
    assert spec.active[0].legend() == "mine flip"
    assert checkpoints.classifier_name(spec) == "digits_00noise_00nopeek_flipmine"
    with pytest.raises(UsageError, match="mine_rate is 'a/b'; it must be of letters, digits"):
        ClassifierSpec(mine_rate="a/b")


def test_a_setting_of_a_plug_in_that_is_not_named_is_a_line(place: Path) -> None:
    for spec in (ClassifierSpec(), AttackerSpec()):
        with pytest.raises(NoSetting, match="no setting drop_rate; if a plug-in brings it, name"):
            replace(spec, drop_rate=0.5)


def test_printed_commands_name_the_plug_ins(place: Path) -> None:
    path = write(GOOD, "my drop.py")
    registry.use(path)
    spec = ClassifierSpec(mine_rate=0.5)
    lines = run.dry_run(
        [Experiment(spec, (AttackerSpec(),))], ClassifierSpec(validator=True), Folders()
    )
    assert len(lines) == 5
    for line in (*lines, *run.evaluation_commands(Folders())):
        assert f".py --plugin '{path}' " in line


# ---------------------------------------------------------------- what is left out


def test_what_needs_a_plug_in_is_left_out_and_the_rest_is_evaluated(
    place: Path,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluated: list[str] = []

    def row(path: Path, *places: object) -> dict[str, object]:
        evaluated.append(path.stem)
        return {"Model": path.stem, "Attacker": path.stem, "MaxEpochs": 1}

    monkeypatch.setattr(run, "classifier_row", row)
    monkeypatch.setattr(run, "attacker_row", lambda *a: (row(*a), {}))
    monkeypatch.setattr(run.victims, "mark", lambda row: "")
    monkeypatch.setattr(run.victims, "save", lambda *a: None)
    monkeypatch.setattr(run, "_validator", lambda *a: Path("judge.ckpt"))
    monkeypatch.setattr(
        run, "load_judge", lambda *a: (None, checkpoints.Stored(*[Path()], {}, {}, {}))
    )
    plug_in = write(GOOD)
    registry.use(plug_in)
    good = classifier_file(Path("models"))
    bad = classifier_file(Path("models"), mine_rate=0.5)
    attackers = [attacker_file(Path("models"), each, attack="nearest") for each in (good, bad)]
    named()
    words = ["--models_dir", "models", "--results_dir", "results"]
    for command, left, done in (
        ("evaluate_models", bad, good),
        ("evaluate_attackers", attackers[1], attackers[0]),
    ):
        for dataset in ([], ["--dataset", "digits"]):
            evaluated.clear()
            assert main([command, "--all", *words, *dataset]) == 1
            assert evaluated == [done.name.removesuffix(".ckpt")]
            lines = capsys.readouterr().err.splitlines()
            assert (
                sum("needs the defence 'mine' of the plug-in mine.py; name it" in x for x in lines)
                == 1
            )
            assert f"left out 1 of 2, which need parts that are not here: {left.stem}" in lines[-1]
        # Where nothing is left it is the error of whoever asked.
        assert main([command, "--model", left.stem, *words]) == 2
        assert (
            "the plug-in mine.py; name it with --plugin" in capsys.readouterr().err.splitlines()[-1]
        )
    evaluated.clear()
    with pytest.raises(LeftOut):
        run.performance(Folders(models_dir="models", results_dir="elsewhere"), "digits")
    assert len(evaluated) == 2
    # Another data set has nothing to do with it.
    assert run.select(Folders(models_dir="models"), checkpoints.CLASSIFIER, "mnist") == []


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (
            first("0.0", more=', name="mine_share"'),
            "'mine_rate', which the defence 'mine' of the plug-in",
        ),
        (
            GOOD.replace('key = "mine"', 'key = "mine"\n    version = 2'),
            "version 1 of the defence mine",
        ),
    ],
)
def test_another_version_of_a_plug_in_is_named(
    place: Path, classifier_file: FileMaker, later: str, message: str
) -> None:
    named(write(GOOD))
    path = classifier_file(Path("models"), mine_rate=0.5)
    named(write(later))
    registry.forget()
    with pytest.raises(Lacking, match=message) as lacking:
        checkpoints.load_classifier(path)
    assert lacking.value.stored.arguments["mine_rate"] == 0.5


def test_a_network_of_a_plug_in_that_is_not_named_is_lacking(
    place: Path, classifier_file: FileMaker
) -> None:
    code = NETWORK.format("small") + "    from torch import nn\n    from math import prod\n"
    code += "    flat = nn.Flatten()\n    last = nn.Linear(prod(image_shape), num_classes)\n"
    named(write(code + "    return SplitNetwork(flat, last, image_shape, num_classes)\n"))
    path = classifier_file(Path("models"), network="small")
    named()
    with pytest.raises(Lacking, match="unknown network 'small'.*name that with --plugin"):
        checkpoints.load_classifier(path)


# ---------------------------------------------------------------- the documentation


def said_by(documented: Any, heading: str) -> Iterator[tuple[str, str]]:
    """Name → what a section of a docstring says of it."""
    text = inspect.getdoc(documented) or ""
    (section,) = re.findall(rf"\n{heading}:\n((?:    .*\n?)+)", text)
    for name, about in re.findall(r"^    (\w+): ((?:.*)(?:\n        .*)*)", section, re.M):
        yield name, " ".join(about.split())


def test_the_table_of_what_a_part_may_say_is_what_the_source_says() -> None:
    rows = [
        f"| {where} | `{name}` | {about} |"
        for where, documented, heading in (
            ("`option(...)`", option, "Args"),
            ("every part", parts.Part, "Attributes"),
            ("a defence", Defence, "Attributes"),
            ("an attack", Attack, "Attributes"),
        )
        for name, about in said_by(documented, heading)
    ]
    for each in (Attack.needs.fget, Attack.unaware.fget, Attack.effort.fget, Attack.aware):
        rows.append(
            f"| an attack | `{each.__name__}` | {(inspect.getdoc(each) or '').splitlines()[0]} |"
        )
    text = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in text, "\n".join(rows)


def test_an_option_says_what_the_source_may_say() -> None:
    assert {*inspect.signature(option).parameters} == {"default", *source.SAID}
