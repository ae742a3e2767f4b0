"""Bad input gets one clear line and exit code 2, and nothing is written or lost."""

import argparse
import gzip
import hashlib
import pickle
import platform
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from resealed import change

from dpsnn import checkpoints, cli
from dpsnn.data import DATASETS, MNIST
from dpsnn.data.files import Idx
from dpsnn.federated.spec import FederatedSpec
from dpsnn.folders import Folders
from dpsnn.networks import NETWORKS
from dpsnn.options import sections
from dpsnn.specs import AttackerSpec, ClassifierSpec, settings

FileMaker = Callable[..., Path]
Refused = Callable[..., str]

FILES = tuple(file.name for file in MNIST.files)

# Training that gets through by mistake must not take long.
SHORT = "--max_epochs 1 --precision 32"


def snapshot(folder: Path) -> dict[str, str]:
    """Every file with a digest of its content, and every folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused; the one line that says why, with all `parts` in it."""

    def run(command: str | list[str], *parts: str) -> str:
        before = snapshot(place)
        capsys.readouterr()
        with warnings.catch_warnings(record=True) as warned:
            code = cli.main(command.split() if isinstance(command, str) else command)
        out, err = capsys.readouterr()
        assert warned == []
        assert code == 2, err
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert [part for part in parts if part not in err] == [], err
        assert "Traceback" not in err
        assert snapshot(place) == before
        return err

    return run


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise URLError("no route\nto host")

    for name in ("MNIST", "EMNIST"):
        monkeypatch.setattr(getattr(torchvision.datasets, name), "download", fail)


# ---------------------------------------------------------------- values

NOT_NEGATIVE = "it must be a finite number, 0 or greater"
POSITIVE = "it must be a finite number, greater than 0"
EXPONENT = "it must be in (0, 2]"
WHOLE = "it must be a whole number from"
SETS = f"choose from {sorted(DATASETS)}"


@pytest.mark.parametrize(
    "option, value, allowed",
    [
        *(
            (name, value, NOT_NEGATIVE)
            for name in ("noise_scale", "nopeek_weight", "gaussian_std")
            for value in ("-1.0", "-0.001", "nan", "inf", "-inf")
        ),
        ("noise_scale", "-1e-05", NOT_NEGATIVE),
        *(("learning_rate", value, POSITIVE) for value in ("0.0", "-0.1", "nan", "inf")),
        *(("nopeek_exponent", value, EXPONENT) for value in ("0.0", "3.0", "-1.0", "nan", "inf")),
        *(("max_epochs", value, f"{WHOLE} 1") for value in ("0", "-3", "9" * 400)),
        *(("batch_size", value, f"{WHOLE} 1") for value in ("0", "-1", "9" * 20)),
        *(("seed", value, f"{WHOLE} 0") for value in ("-1", "9" * 30)),
        ("dataset", "mnits", SETS),
        ("dataset", "", SETS),
        (
            "network",
            "resnet",
            f"choose from {sorted(NETWORKS)}",
        ),
        ("precision", "16", "choose from ['32', 'auto', 'bf16']"),
        ("noise_scale", "much", "invalid float value"),
        ("max_epochs", "1.5", "invalid int value"),
        ("seed", "one", "invalid int value"),
    ],
)
def test_train_model_refuses(refused: Refused, option: str, value: str, allowed: str) -> None:
    refused(["train_model", *SHORT.split(), f"--{option}", value], option, value, allowed)


@pytest.mark.parametrize(
    "option, value, allowed",
    [
        *(("model_noise", value, NOT_NEGATIVE) for value in ("-1.0", "nan", "inf")),
        *(("data_pct", value, "from 1 to 100") for value in ("0", "101", "-5")),
        *(("learning_rate", value, POSITIVE) for value in ("0.0", "-1.0", "nan")),
        ("max_epochs", "0", f"{WHOLE} 1"),
        ("batch_size", "0", f"{WHOLE} 1"),
        ("decoder", "cubic", "choose from ['conv', 'deconv', 'grid', 'linear']"),
        ("precision", "64", "choose from ['32', 'auto', 'bf16']"),
        ("surrogate", "fashion", SETS),
        ("data_pct", "half", "invalid int value"),
        ("dataset", "mnits", SETS),
    ],
)
def test_train_attacker_refuses(
    place: Path,
    refused: Refused,
    classifier_file: FileMaker,
    option: str,
    value: str,
    allowed: str,
) -> None:
    model = classifier_file(place / "models").name
    words = ["train_attacker", *SHORT.split(), "--model", model, f"--{option}", value]
    refused(words, option, value, allowed)


@pytest.mark.parametrize(
    "command, parts",
    [
        ("", ["COMMAND", "--help"]),
        ("tarin_model", ["'tarin_model'", "train_model", "evaluate_attackers"]),
        ("train_model --noise_scael 1", ["--noise_scael", "--help"]),
        ("train_model --noise 1", ["--noise", "--help"]),
        ("train_model --noise_scale", ["--noise_scale", "expected one argument"]),
        ("train_model digits", ["digits", "--help"]),
        ("train_model --nopeek_weight 1 --batch_size 1", ["batch_size is 1", "2 or more"]),
        ("train_model --validator --noise_scale 1", ["without any defence"]),
        ("train_attacker", ["--model NAME"]),
        ("train_attacker --model gone", ["'gone'", "nothing yet", "train_model"]),
        ("evaluate_models", ["no classifier", "train one first"]),
        ("evaluate_models --model gone", ["'gone'", "train_model"]),
        ("evaluate_models --dataset mnits", ["'mnits'", "choose from"]),
        ("evaluate_attackers", ["no attacker", "train one first"]),
        ("evaluate_attackers --model gone", ["'gone'", "train_attacker"]),
        ("performance", ["train one first"]),
        ("performance --dataset mnits", ["'mnits'", "choose from"]),
        ("plot_attack", ["--model NAME", "--attacker NAME"]),
        ("plot_attack --model gone --attacker gone", ["'gone'"]),
        ("plain --dataset mnits", ["'mnits'", "choose from"]),
        ("noise --surrogate fashion", ["'fashion'", "choose from"]),
        ("nopeek --batch_size 1", ["batch_size is 1", "2 or more"]),
        ("combo --max_epochs 0", ["max_epochs is 0"]),
        ("all --attacker_epochs 0", ["attacker_epochs is 0", f"{WHOLE} 1"]),
        ("demo --seed -1", ["seed is -1"]),
        ("plain --seeds 0,-1", ["seeds is -1", f"{WHOLE} 0"]),
        ("plain --seeds 0,x", ["--seeds: invalid int value: '0,x'", "--seeds 0 1 2"]),
        ("secure --seeds ,", ["--seeds: invalid int value: ','"]),
        ("noise --noise_scale 1", ["--noise_scale", "--help"]),
    ],
)
def test_commands_refuse(refused: Refused, command: str, parts: list[str]) -> None:
    refused(command, *parts)


@pytest.mark.parametrize(
    "command, meant",
    [
        ("nois", "noise"),
        ("Noise", "noise"),
        ("post-nois", "post_noise"),
        ("train", "train_attacker or train_model"),
        ("train_model --noise 0.5", "--noise_scale"),
        ("train_model --noise=0.5", "--noise_scale"),
        ("train_model --Noise-Scale 0.5", "--noise_scale"),
        ("train_model --epochs 3", "--max_epochs"),
        ("train_model --epsilon 3", "--dp_target_epsilon"),
        ("train_attacker --surogate mnist", "--surrogate"),
        ("plain --attacker_epoch 3", "--attacker_epochs"),
        ("federated --round 3", "--rounds"),
        ("secure serv", "serve"),
        ("secure serve --requests 3", "--num_requests"),
        ("train_model --dataset Digits", "digits"),
        ("train_model --network LeNet", "lenet5"),
        ("train_model --norm groups", "group"),
        ("train_model --precision BF16", "bf16"),
        ("train_attacker --attack inverse", "inversion"),
        ("train_attacker --decoder Linear", "linear"),
        ("noise --surrogate emnst", "emnist"),
        ("figures --dataset minst", "mnist"),
    ],
)
def test_what_was_meant_is_said(refused: Refused, command: str, meant: str) -> None:
    assert f"(did you mean {meant}?)" in refused(command)


@pytest.mark.parametrize("command", ["train_model --zzz 1", "zzz", "train_model --dataset zzz"])
def test_nothing_is_guessed_of_what_is_like_nothing(refused: Refused, command: str) -> None:
    assert "did you mean" not in refused(command)


def test_options_stand_after_the_command(refused: Refused) -> None:
    assert "--noise; options stand after the command" in refused("--noise 1")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_both_words_for_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    assert "Six scales" not in (shown := capsys.readouterr().out)
    assert "six scales of Laplace noise on the wire" in shown


def test_a_name_with_a_line_break_leaves_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "a\nb\x1b[31mé").mkdir()
    (folder / "model.ckpt").write_bytes(b"nothing")
    assert cli.main(["train_attacker", "--model", str(folder / "model")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and r"/a\nb\x1b[31mé/model.ckpt is damaged" in line


@pytest.mark.parametrize(
    "command, whose",
    [
        ("train_model --noise 1", "dpsnn train_model"),
        ("secure serve --nose 1", "dpsnn secure serve"),
        ("secure --nose 1", "dpsnn secure"),
        ("--nose", "dpsnn"),
        ("--noise_scale 1", "dpsnn"),
        ("nose", "dpsnn"),
    ],
)
def test_an_unknown_word_points_to_the_help_of_its_command(
    refused: Refused, command: str, whose: str
) -> None:
    line = refused(command).strip()
    assert line.startswith(f"{whose}: ") and line.endswith(f"; see {whose} --help")


@pytest.mark.parametrize(
    "command, parts",
    [
        (
            "train_model --suppress_sparsity 95",
            ["suppress_sparsity is 95", "a share", "95 % is 0.95"],
        ),
        (
            "train_model --suppress_sparsity 1",
            ["suppress_sparsity is 1", "from 0 to below 1, a share"],
        ),
        ("train_model --network lenet5 --dropout 20", ["dropout is 20", "20 % is 0.2"]),
        ("train_model --sgd_momentum 90", ["sgd_momentum is 90", "90 % is 0.9"]),
        ("train_model --suppress_sparsity -0.5", ["suppress_sparsity is -0.5", "a share"]),
        ("train_model --suppress_sparsity nan", ["suppress_sparsity is nan", "a share"]),
        ("train_attacker --data_pct 0.5", ["'0.5'", "whole percentage from 1 to 100; 50 is half"]),
        ("train_attacker --data_pct 0", ["data_pct is 0", "50 is half"]),
    ],
)
def test_shares_and_percentages_are_told_apart(
    refused: Refused, command: str, parts: list[str]
) -> None:
    refused(command, *parts)


@pytest.mark.parametrize("attack", ["sign", "inversion"])
@pytest.mark.parametrize("option", ["decoder linear", "max_epochs 3", "batch_size 8"])
def test_attacks_without_a_decoder_refuse_what_is_said_of_it(
    refused: Refused, attack: str, option: str
) -> None:
    name = option.split()[0]
    refused(
        f"train_attacker --model any --attack {attack} --{option}",
        f"{name} says nothing about the attack {attack}",
        "leave it out",
    )


@pytest.mark.parametrize("form", ["0 1 2", "0,1,2", "0, 1, 2", "0 1,2"])
def test_seeds_stand_between_blanks_or_commas(
    place: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    assert cli.main(["plain", "--dry_run", "--seeds", *form.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    models = [line for line in lines if "train_model" in line and "--validator" not in line]
    assert [line.partition("--seed ")[2][:1] for line in models] == ["", "1", "2"]


@pytest.mark.parametrize("option", ["noise_scale", "noise-scale"])
@pytest.mark.parametrize("command", ["train_model", "train-model"])
@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
def test_dashes_and_underscores_are_alike(
    refused: Refused, command: str, option: str, form: str
) -> None:
    refused(f"{command} {form.format(f'--{option}', '-1')}", "noise_scale is -1.0", NOT_NEGATIVE)


def test_dashes_in_values_stay(refused: Refused) -> None:
    refused("train_attacker --model my-own-model", "'my-own-model'")


@pytest.mark.parametrize(
    "options",
    [
        "--learning_rate 1e30",
        "--network lenet5 --sgd_momentum 0 --learning_rate 1000",
        "--noise_scale 1e38",
        "--gaussian_std 1e38",
        "--suppress_sparsity 0.5 --learning_rate 1e30",
        "--dp_noise_multiplier 1 --learning_rate 1e38",
        "--validator --learning_rate 1e30",
    ],
)
def test_a_training_that_diverges_ends_in_one_line_and_saves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    words = f"train_model --dataset digits {SHORT} --batch_size 256 {options}"
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (said,) = [line for line in err.splitlines() if not line.startswith("training classifier")]
    assert "training diverged" in said and "lower" in said and "finite" in said
    if "dp_" not in options:
        assert "training diverged: network." in said and "lower --learning_rate" in said
        assert "is not finite after epoch 1" in said
    left = [path.name for path in Path("models").rglob("*") if path.is_file()]
    assert [name for name in left if not name.endswith(".lock")] == []


@pytest.mark.parametrize("decoder", ["conv", pytest.param("linear", marks=pytest.mark.slow)])
def test_an_attacker_that_diverges_ends_in_one_line_and_saves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], classifier_file: FileMaker, decoder: str
) -> None:
    model = classifier_file(place / "models").name
    words = f"train_attacker {SHORT} --model {model} --decoder {decoder} --learning_rate 1e30"
    assert cli.main(words.split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "training diverged: decoder." in said and "lower --learning_rate" in said
    assert list(Path("models/attackers").rglob("*.ckpt*")) == []


# ---------------------------------------------------------------- models


def test_an_ambiguous_model_is_refused(
    place: Path, refused: Refused, classifier_file: FileMaker
) -> None:
    paths = [classifier_file(place / "models", epoch=epoch) for epoch in (3, 7)]
    stems = [path.name.removesuffix(".ckpt") for path in paths]
    name = stems[0].removesuffix("_epoch=03")
    refused(f"train_attacker --model {name}", "ambiguous", *stems)
    refused(f"evaluate_models --model {name}", "ambiguous", *stems)


def test_a_model_of_another_data_set_is_refused(
    place: Path, refused: Refused, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    target = classifier_file(place / "models")
    attacker = attacker_file(place / "models", target)
    for command in (
        f"train_attacker --model {target.name}",
        f"evaluate_models --model {target.name}",
        f"evaluate_attackers --model {attacker.name}",
    ):
        refused(f"{command} --dataset mnist", "is for digits, not mnist", "drop --dataset")


def test_a_validator_is_not_attacked(
    place: Path, refused: Refused, classifier_file: FileMaker
) -> None:
    validator = classifier_file(place / "models", validator=True)
    refused(f"train_attacker --model {validator.name}", validator.stem, "not attacked")


@pytest.mark.parametrize(
    "judge, parts",
    [
        (None, ["no single validator for digits", "--validator --dataset digits"]),
        ({"dataset": "mnist", "validator": True}, ["judges mnist", "name a validator for digits"]),
        ({"noise_scale": 0.5}, ["is not a validator", "--validator"]),
    ],
)
def test_the_wrong_judge_is_refused(
    place: Path,
    refused: Refused,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    judge: dict[str, Any] | None,
    parts: list[str],
) -> None:
    attacker_file(place / "models", classifier_file(place / "models"))
    command = "evaluate_attackers"
    if judge:
        command += f" --validation_model {classifier_file(place / 'models', **judge).name}"
    refused(command, *parts)


def test_an_attacker_of_a_replaced_model_is_refused(
    place: Path, refused: Refused, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    target = classifier_file(place / "models")
    attacker = attacker_file(place / "models", target)
    change(target, lambda content: content["state_dict"]["network.client.1.bias"].add_(1))
    classifier_file(place / "models", validator=True)
    refused("evaluate_attackers", "attacked another model", target.stem)
    refused(f"plot_attack --model {target.stem} --attacker {attacker.stem}", "another model")


def test_a_colliding_name_is_refused(
    place: Path, refused: Refused, classifier_file: FileMaker
) -> None:
    path = classifier_file(place / "models", noise_scale=1.05, max_epochs=1)
    line = refused(f"train_model {SHORT} --noise_scale 10.5", path.name, "not overwritten")
    assert "and 1 more" in line  # the precision differs as well


def make_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def make_foreign(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)


def make_text(path: Path) -> None:
    path.write_text("not a checkpoint\n")


@pytest.mark.parametrize(
    "spoil, part",
    [(make_truncated, "damaged"), (make_foreign, "not a dpsnn"), (make_text, "refused")],
)
@pytest.mark.parametrize("command", ["train_attacker", "evaluate_models", "train_model", "plain"])
def test_a_spoilt_classifier_is_refused(
    place: Path,
    refused: Refused,
    classifier_file: FileMaker,
    spoil: Callable[[Path], None],
    part: str,
    command: str,
) -> None:
    path = classifier_file(place / "models", validator=command == "plain")
    spoil(path)
    named = f" --model {path.name}" if command in ("train_attacker", "evaluate_models") else ""
    refused(f"{command}{named}", path.name, part)


@pytest.mark.parametrize(
    "spoil, part",
    [(make_truncated, "damaged"), (make_foreign, "not a dpsnn"), (make_text, "refused")],
)
def test_a_spoilt_attacker_is_refused(
    place: Path,
    refused: Refused,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    spoil: Callable[[Path], None],
    part: str,
) -> None:
    target = classifier_file(place / "models")
    classifier_file(place / "models", validator=True)
    path = attacker_file(place / "models", target)
    spoil(path)
    refused("evaluate_attackers", path.name, part)
    refused(f"train_attacker --model {target.name}", path.name, part)
    refused(["plot_attack", "--model", target.name, "--attacker", path.name], path.name, part)


def test_a_good_model_is_not_measured_beside_a_spoilt_one(
    place: Path, refused: Refused, classifier_file: FileMaker
) -> None:
    classifier_file(place / "models")
    spoilt = classifier_file(place / "models", noise_scale=0.5)
    make_truncated(spoilt)
    refused("evaluate_models", spoilt.name)


def test_a_damaged_table_is_refused(
    place: Path, refused: Refused, classifier_file: FileMaker
) -> None:
    classifier_file(place / "models")
    table = place / "results" / "quantitative_measures" / "model_performances.csv"
    table.parent.mkdir(parents=True)
    table.write_text("Model,MeanTrainAcc\na,1,2\n")
    refused("evaluate_models", table.name, "unequal length", "move it away")


def test_damaged_progress_is_refused(place: Path, refused: Refused) -> None:
    arguments = checkpoints.plain(checkpoints.ClassifierSpec(max_epochs=1, precision="32"))
    name = "digits_00noise_00nopeek_1epochs"
    progress = checkpoints.progress_path(place / "models/classifiers", name, arguments)
    progress.parent.mkdir(parents=True)
    (place / "results/logs" / name).mkdir(parents=True)
    progress.with_name(f"{name}.lock").touch()
    progress.write_bytes(b"half")
    refused(f"train_model {SHORT}", progress.name, "damaged", "delete it")


# ---------------------------------------------------------------- data


@pytest.fixture
def idx_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with MNIST's file names, ten blank images each, which for once are what MNIST holds."""
    ten = tuple(Idx(file.name, (10, *file.shape[1:])) for file in MNIST.files)
    monkeypatch.setattr(MNIST, "files", ten)
    images = struct.pack(">4I", 0x803, 10, 28, 28) + np.zeros(7840, np.uint8).tobytes()
    labels = struct.pack(">2I", 0x801, 10) + bytes(10)
    for name in FILES:
        path = tmp_path / "mirror" / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(images if "images" in name else labels))
    return tmp_path / "mirror"


@pytest.mark.parametrize("dataset", ["mnist", "emnist"])
@pytest.mark.parametrize("command", ["train_model", "plain", "train_model --validator"])
def test_data_that_cannot_be_reached(
    place: Path, refused: Refused, unreachable: None, dataset: str, command: str
) -> None:
    (place / "data").mkdir()
    parts = ["no route to host", "-images-idx3-ubyte", "under data", "DPSNN_DATA_MIRROR"]
    refused(f"{command} {SHORT} --dataset {dataset}", *parts, "--dataset digits")


def test_evaluation_and_surrogates_need_data_too(
    place: Path, refused: Refused, unreachable: None, classifier_file: FileMaker
) -> None:
    (place / "data").mkdir()
    model = classifier_file(place / "models", dataset="mnist")
    refused(f"evaluate_models --model {model.name}", "cannot reach MNIST", "--dataset digits")
    refused(f"train_attacker --model {model.name}", "cannot reach MNIST")
    refused(f"plain {SHORT} --surrogate emnist", "cannot reach EMNIST")


def test_a_data_folder_that_is_a_file(place: Path, refused: Refused, unreachable: None) -> None:
    (place / "data").write_text("in the way")
    refused(f"train_model {SHORT} --dataset mnist", "cannot reach MNIST", "File exists", "data")


def test_a_mirror_that_is_no_folder(
    place: Path, refused: Refused, unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSNN_DATA_MIRROR", str(place / "nowhere"))
    refused(f"train_model {SHORT} --dataset mnist", "DPSNN_DATA_MIRROR", "nowhere", "not a folder")


def test_an_empty_mirror(
    place: Path, refused: Refused, unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "data").mkdir()
    monkeypatch.setenv("DPSNN_DATA_MIRROR", str(place / "data"))
    refused(f"train_model {SHORT} --dataset mnist", "cannot reach MNIST", FILES[0])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[12:20] = b"\xff" * 8
    path.write_bytes(content)


def not_gzip(path: Path) -> None:
    path.write_text("<html>404</html>")


def cut_inside(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def not_idx(path: Path) -> None:
    path.write_bytes(gzip.compress(b"PNG and so on"))


@pytest.mark.parametrize("spoil", [cut, garble, not_gzip, cut_inside, not_idx])
@pytest.mark.parametrize("file", [FILES[0], FILES[3]])
def test_a_damaged_file_in_the_mirror(
    refused: Refused,
    unreachable: None,
    idx_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    file: str,
) -> None:
    monkeypatch.setenv("DPSNN_DATA_MIRROR", str(idx_folder))
    spoil(idx_folder / f"{file}.gz")
    refused(f"train_model {SHORT} --dataset mnist", f"{file}.gz", "damaged", "fetch it again")


@pytest.mark.parametrize(
    "swap, part",
    [
        ((), "20 images are too few"),
        ((FILES[0], FILES[1]), "holds 10x28x28 values, where 10 belong"),
    ],
)
def test_whole_files_of_something_else(
    refused: Refused,
    idx_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    swap: tuple[str, ...],
    part: str,
) -> None:
    monkeypatch.setenv("DPSNN_DATA_MIRROR", str(idx_folder))
    if swap:
        shutil.copy(idx_folder / f"{swap[0]}.gz", idx_folder / f"{swap[1]}.gz")
    refused(f"train_model {SHORT} --dataset mnist", part)


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("option", ["models_dir", "results_dir"])
@pytest.mark.parametrize("below", ["", "/deeper/down"])
@pytest.mark.parametrize("command", ["train_model", "demo", "noise"])
def test_a_file_where_a_folder_should_be(
    place: Path, refused: Refused, option: str, below: str, command: str
) -> None:
    (place / "file").write_text("in the way")
    refused(f"{command} {SHORT} --{option} file{below}", f"file{below}", "name another folder")


def test_evaluation_needs_a_folder_to_write_to(
    place: Path, refused: Refused, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    (place / "file").write_text("in the way")
    target = classifier_file(place / "models")
    classifier_file(place / "models", validator=True)
    attacker = attacker_file(place / "models", target)
    for command in (
        "evaluate_models",
        "evaluate_attackers",
        f"train_attacker {SHORT} --seed 1 --model {target.name}",
        f"plot_attack --model {target.name} --attacker {attacker.name}",
        "performance",
    ):
        refused(f"{command} --results_dir file", "cannot write to file", "another folder")


@pytest.mark.parametrize("name", ["picture.jpeg", "picture", "folder.d/picture.PNG.txt"])
def test_a_figure_of_an_unknown_kind(
    place: Path, refused: Refused, classifier_file: FileMaker, attacker_file: FileMaker, name: str
) -> None:
    target = classifier_file(place / "models")
    attacker = attacker_file(place / "models", target)
    command = f"plot_attack --model {target.name} --attacker {attacker.name} --savepath {name}"
    refused(command, Path(name).name, ".png, .pdf, .svg")


def test_an_attacker_of_another_model_is_not_drawn(
    place: Path, refused: Refused, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    first, second = (classifier_file(place / "models", noise_scale=s) for s in (0.0, 0.5))
    attacker = attacker_file(place / "models", second)
    refused(f"plot_attack --model {first.name} --attacker {attacker.name}", "attacks", second.stem)


# ---------------------------------------------------------------- real processes and help


@pytest.mark.parametrize(
    "words, part",
    [
        (["{scripts}/train_attacker.py", "--model", "digits_00noise_00nopeek"], "refused"),
        pytest.param(
            ["-m", "dpsnn.cli", "train_model", "--noise_scale", "-1"],
            "noise_scale is -1.0",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_real_process_exits_with_2(
    place: Path, classifier_file: FileMaker, words: list[str], part: str
) -> None:
    # torch warns about pickles, which would make a second line.
    classifier_file(place / "models").write_bytes(pickle.dumps({"weight": object}))
    before = snapshot(place)
    scripts = Path(__file__).resolve().parents[1] / "scripts"
    command = [sys.executable, *(word.format(scripts=scripts) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert part in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert snapshot(place) == before


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in cli.make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("command", sorted(subcommands()))
def test_help_names_every_option(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli.main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    options = [s for a in subcommands()[command]._actions for s in a.option_strings]
    assert len(options) > 4 and [option for option in options if option not in out] == []
    assert err == ""


@pytest.mark.parametrize("spec", [ClassifierSpec, AttackerSpec, Folders, FederatedSpec])
def test_every_option_of_a_spec_has_its_heading(spec: type) -> None:
    every = [name for names in sections().values() for name in names]
    assert [option.name for option in settings(spec) if option.name not in every] == []
    assert len(every) == len({*every}), "each stands once"


def test_options_stand_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train_model", "--help"]) == 0
    out = capsys.readouterr().out
    lines = [line.split()[0] if line.startswith("  --") else line for line in out.splitlines()]
    wanted = [
        *("data and model:", "--dataset", "noise on the wire:", "--noise_scale", "NoPeek:"),
        *("training:", "--max_epochs", "DP-SGD:", "--dp_noise_multiplier", "suppress-privacy:"),
        *("--suppress_sparsity", "folders and logs:", "--data_dir"),
    ]
    assert [line for line in lines if line in wanted] == wanted


COMMANDS = {
    "audit a model": "audit calibrate report",
    "train and evaluate": "train_model train_attacker evaluate_models evaluate_attackers plot_attack",
    "groups of experiments": "demo plain noise nopeek combo post_noise volume shift queries headline all",
    "studies": "published omniglot suppress faces",
    "many parties": "secure federated",
    "tables, figures and accounts": "performance figures parts verify clean bench ledger epsilon",
}
"""Headings of `dpsnn --help` and the commands below them."""


def test_commands_stand_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(subcommands()) == " ".join(COMMANDS.values()).split()
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for title, names in COMMANDS.items():
        below = lines[lines.index(f"{title}:") + 1 :]
        section = below[: below.index("")]
        assert [line.split()[0] for line in section if line[2] != " "] == names.split()


def test_version_says_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == (
        f"dpsnn {metadata.version('dpsnn')}, torch {metadata.version('torch')}, pytorch-lightning"
        f" {metadata.version('pytorch-lightning')}, Python {platform.python_version()}\n"
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert [command for command in subcommands() if command not in out] == []


# ---------------------------------------------------------------- not a number


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "command", ["evaluate_models", "train_attacker --model {}", "evaluate_models --model {}"]
)
def test_a_classifier_with_weights_that_are_not_finite_is_refused_by_name(
    place: Path,
    refused: Refused,
    classifier_file: FileMaker,
    monkeypatch: pytest.MonkeyPatch,
    bad: float,
    command: str,
) -> None:
    path = spoiled(classifier_file(place / "models"), checkpoints.CLASSIFIER, bad, monkeypatch)
    refused(command.format(path.name), path.name, "network.client", "not finite", "train it again")


@pytest.mark.parametrize("what", ["decoder", "mean_image"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_attacker_with_values_that_are_not_finite_is_refused_by_name(
    place: Path,
    refused: Refused,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    bad: float,
) -> None:
    classifier_file(place / "models", validator=True)
    path = attacker_file(place / "models", classifier_file(place / "models"))
    spoiled(path, checkpoints.ATTACKER, bad, monkeypatch, record=what == "mean_image")
    refused("evaluate_attackers", path.name, what, "not finite", "train it again")


def spoiled(
    path: Path,
    kind: str,
    bad: float,
    monkeypatch: pytest.MonkeyPatch,
    record: bool = False,
) -> Path:
    """Write a checkpoint anew with one value that is not finite, which saving refuses by itself."""
    stored = checkpoints.read(path, kind)
    tensors = [stored.record["mean_image"]] if record else list(stored.weights.values())
    tensors[0].view(-1)[-1] = bad
    path.unlink()
    with pytest.raises(ValueError, match="not finite"):
        checkpoints.save(path, kind, stored.arguments, stored.record, stored.weights)
    assert not path.exists()
    with monkeypatch.context() as unwatched:
        unwatched.setattr(checkpoints, "_require_finite", lambda stored: None)
        checkpoints.save(path, kind, stored.arguments, stored.record, stored.weights)
    return path
