"""Names are fixed, files are whole or absent, and a stranger's file is data, never code."""

import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resealed import change
from torch import Tensor

from dpsnn import building, checkpoints, sealed
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.errors import UsageError
from dpsnn.names import names_of, settled
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain, settings
from dpsnn.target import Target

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}
RECORD: dict[str, Any] = {"epoch": 0, "precision": "32-true"}
FileMaker = Callable[..., Path]


def one_line(raised: pytest.ExceptionInfo[UsageError]) -> str:
    """The message, which must be a single line."""
    text = str(raised.value)
    assert text and text.splitlines() == [text]
    return text


def write(path: Path, **changes: Any) -> Path:
    """A small classifier's file with some parts exchanged, sealed if it can be; None leaves a part out."""
    content: dict[str, Any] = {
        "dpsnn": CLASSIFIER,
        "format": checkpoints.FORMAT,
        "arguments": plain(ClassifierSpec()),
        "record": RECORD,
        "state_dict": WEIGHTS,
        **changes,
    }
    content = {key: value for key, value in content.items() if value is not None}
    try:
        sealed.write(path, content)
    except TypeError:
        torch.save(content, path)
    return path


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "number, spelled",
    [
        (0.5, "05"),
        (1.0, "10"),
        (0.05, "005"),
        (0.0, "00"),
        (-0.0, "00"),
        (1e-5, "000001"),
        (2.5e-7, "000000025"),
        (10.5, "105"),
        (1.05, "105"),
        (1e20, "1000000000000000000000"),
    ],
)
def test_a_number_loses_its_decimal_point(number: float, spelled: str) -> None:
    assert checkpoints.spell(number) == spelled


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({}, "digits_00noise_00nopeek"),
        (
            {"dataset": "mnist", "noise_scale": 0.5, "nopeek_weight": 0.1},
            "mnist_05noise_01nopeek",
        ),
        ({"validator": True}, "attack_validation_digits_00noise_00nopeek"),
        ({"gaussian_std": 0.25}, "digits_00noise_00nopeek_025gaussian"),
        (
            {"nopeek_weight": 0.5, "nopeek_exponent": 2.0},
            "digits_00noise_05nopeek_exp2",
        ),
        (
            {"nopeek_weight": 0.5, "nopeek_exponent": 0.5},
            "digits_00noise_05nopeek_exp0.5",
        ),
        (
            {
                "noise_scale": 1.0,
                "nopeek_weight": 0.5,
                "nopeek_exponent": 2.0,
                "nopeek_clean": True,
            },
            "digits_10noise_05nopeek_exp2_clean",
        ),
        ({"nopeek_exponent": 2.0}, "digits_00noise_00nopeek"),
        ({"seed": 3}, "digits_00noise_00nopeek_seed3"),
        ({"network": "validator"}, "digits_00noise_00nopeek_validator"),
        (
            {"noise_scale": 1.0, "gaussian_std": 0.1, "nopeek_weight": 0.05, "seed": 1},
            "digits_10noise_005nopeek_01gaussian_seed1",
        ),
        ({"max_epochs": 20}, "digits_00noise_00nopeek_20epochs"),
        ({"learning_rate": 0.005}, "digits_00noise_00nopeek_0005rate"),
        ({"learning_rate": 1e-5}, "digits_00noise_00nopeek_000001rate"),
        ({"batch_size": 32}, "digits_00noise_00nopeek_32batch"),
        (
            {
                "dp_target_epsilon": 8.0,
                "fixed_order": False,
                "constant_rate": True,
                "max_epochs": 60,
                "learning_rate": 1.0,
                "batch_size": 4,
                "seed": 2,
            },
            "digits_00noise_00nopeek_dpsgd_eps80_constantrate_60epochs_10rate_4batch_seed2",
        ),
        (
            {
                "dp_noise_multiplier": 1.0,
                "dp_max_grad_norm": 0.5,
                "dp_delta": 1e-6,
                "dp_accountant": "prv",
            },
            "digits_00noise_00nopeek_10dpsgd_05clip_0000001delta_prv",
        ),
        (
            {
                "suppress_sparsity": 0.9,
                "suppress_start_epoch": 2,
                "suppress_end_epoch": 5,
                "suppress_mask_times": 100,
                "suppress_noise": 0.0,
                "max_epochs": 6,
            },
            "digits_00noise_00nopeek_suppress09_from2_to5_100rounds_00masknoise_6epochs",
        ),
        (
            {"validator": True, "max_epochs": 60, "batch_size": 10},
            "attack_validation_digits_00noise_00nopeek_60epochs_10batch",
        ),
    ],
)
def test_classifier_name(arguments: dict[str, Any], name: str) -> None:
    assert checkpoints.classifier_name(ClassifierSpec(**arguments)) == name


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({}, "mnist_attacker_model<M>"),
        ({"naive": True}, "mnist_attacker_naive_model<M>"),
        ({"decoder": "linear"}, "mnist_attacker_linear_model<M>"),
        ({"data_pct": 10}, "mnist_attacker_10datapct_model<M>"),
        ({"seed": 2}, "mnist_attacker_seed2_model<M>"),
        ({"model_noise": 0.0}, "mnist_attacker_model<M>_set00noise"),
        (
            {
                "surrogate": "emnist",
                "naive": True,
                "decoder": "linear",
                "data_pct": 5,
                "seed": 1,
                "model_noise": 0.05,
            },
            "emnist_attacker_naive_linear_5datapct_seed1_model<M>_set005noise",
        ),
        (
            {"model": "mnist_05noise_01nopeek_epoch=08", "model_noise": 1.0},
            "mnist_attacker_model<mnist_05noise_01nopeek_epoch=08>_set10noise",
        ),
        ({"max_epochs": 100}, "mnist_attacker_100epochs_model<M>"),
        ({"learning_rate": 0.003}, "mnist_attacker_0003rate_model<M>"),
        ({"batch_size": 128, "seed": 1}, "mnist_attacker_128batch_seed1_model<M>"),
        ({"attack": "sign", "learning_rate": 0.1}, "mnist_attacker_sign_01rate_model<M>"),
    ],
)
def test_attacker_name(arguments: dict[str, Any], name: str) -> None:
    spec = AttackerSpec(**{"surrogate": "mnist", "model": "M", **arguments})
    assert checkpoints.attacker_name(spec) == name


OTHER: dict[str, Any] = {
    "dataset": "mnist",
    "network": "lenet5",
    "cut": "fc2",
    "norm": "group",
    "dropout": 0.1,
    "noise_scale": 0.5,
    "gaussian_std": 0.5,
    "nopeek_weight": 0.25,
    "nopeek_exponent": 2.0,
    "nopeek_clean": True,
    "dp_noise_multiplier": 2.0,
    "dp_target_epsilon": 3.0,
    "dp_max_grad_norm": 2.0,
    "dp_delta": 1e-6,
    "dp_coupled": True,
    "repeatable_noise": True,
    "dp_accountant": "prv",
    "suppress_sparsity": 0.9,
    "suppress_start_epoch": 2,
    "suppress_end_epoch": 9,
    "suppress_mask_times": 7,
    "suppress_noise": 0.2,
    "clip_std": 0.5,
    "clip_radius": 2.0,
    "quantise_bits": 5,
    "quantise_low": -0.5,
    "quantise_high": 0.5,
    "wire_precision": "float16",
    "seed": 1,
    "max_epochs": 11,
    "batch_size": 7,
    "learning_rate": 0.5,
    "sgd_momentum": 0.9,
    "constant_rate": True,
    "fixed_order": True,
    "validator": True,
    "model": "another",
    "attack": "inversion",
    "model_noise": 0.5,
    "surrogate": "emnist",
    "data_pct": 10,
    "decoder": "linear",
    "queries": 4,
    "naive": True,
    "steps": 9,
    "restarts": 9,
    "augment": "warp",
    "doublings": 2,
    "clamp_scale": 0.5,
    "clamp_radius": 0.5,
    "refiner_first": "mixture",
    "refiner_steps": 2,
    "refiner_epochs": 2,
    "refiner_doublings": 2,
    "map_first": "mixture",
    "map_steps": 9,
    "mixture_temper": 0.5,
    "ensemble_members": "decoder+ridge",
}
"""Another value of every field but `precision`: that one is no part of a model, but of how it is computed."""

COMPANY: dict[str, dict[str, Any]] = {
    **{name: {"nopeek_weight": 0.5} for name in OTHER if name.startswith("nopeek_")},
    **{name: {"dp_noise_multiplier": 1.0} for name in OTHER if name.startswith("dp_")},
    **{name: {"suppress_sparsity": 0.5} for name in OTHER if name.startswith("suppress_")},
    "repeatable_noise": {"dp_noise_multiplier": 1.0},
    "clip_radius": {"clip_std": 1.0},
    **{name: {"quantise_bits": 4} for name in ("quantise_low", "quantise_high")},
    **{name: {"attack": "inversion"} for name in ("steps", "restarts")},
    "clamp_radius": {"clamp_scale": 1.0},
    **{
        name: {"attack": attack}
        for attack in ("refiner", "map", "mixture", "ensemble")
        for name in OTHER
        if name.startswith(f"{attack}_")
    },
}
"""Beside which a field says something."""

FIELDS = [
    (kind, made.name)
    for kind in (ClassifierSpec, AttackerSpec)
    for made in settings(kind)
    if made.name != "precision"
]


@pytest.mark.parametrize("kind, field", FIELDS)
def test_another_value_of_any_field_is_another_name(
    kind: type[ClassifierSpec] | type[AttackerSpec], field: str
) -> None:
    before = kind(**COMPANY.get(field, {}))
    after = dataclasses.replace(before, **{field: OTHER[field]})
    assert newest(before) != newest(after)


def test_another_precision_is_refused(
    place: Path, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    model = classifier_file(place)
    attacker = attacker_file(place, model)
    for path, kind in ((model, CLASSIFIER), (attacker, ATTACKER)):
        arguments = checkpoints.read(path, kind).arguments
        changed = {**arguments, "precision": "32"}
        spec = AttackerSpec if kind == ATTACKER else ClassifierSpec
        assert names_of(spec, changed) == names_of(spec, arguments)
        assert checkpoints.already(path.parent, names_of(spec, arguments)[0], kind, arguments)
        with pytest.raises(UsageError, match="precision='auto', not '32'"):
            checkpoints.already(path.parent, names_of(spec, changed)[0], kind, changed)


def newest(spec: ClassifierSpec | AttackerSpec) -> str:
    return names_of(type(spec), plain(spec))[0]


@pytest.mark.parametrize(
    "kind, silent",
    [
        (ClassifierSpec, {"nopeek_exponent": 2.0, "nopeek_clean": True}),
        (ClassifierSpec, {"dp_max_grad_norm": 2.0, "dp_delta": 1e-6, "dp_accountant": "prv"}),
        (ClassifierSpec, {"dp_coupled": True}),
        (ClassifierSpec, {"suppress_noise": 0.2}),
        (AttackerSpec, {"attack": "sign", "precision": "32"}),
    ],
)
def test_what_says_nothing_makes_no_other_model(
    kind: type[ClassifierSpec] | type[AttackerSpec], silent: dict[str, Any]
) -> None:
    said = {key: value for key, value in silent.items() if key == "attack"}
    spec, same = kind(**silent), kind(**said)
    assert settled(kind, plain(spec)) == settled(kind, plain(same)) == plain(same)
    assert newest(spec) == newest(same)


# ---------------------------------------------------------------- names of then


TUNED = {"noise_scale": 0.5, "max_epochs": 20, "learning_rate": 0.005, "batch_size": 32}
THEN, NOW = "digits_05noise_00nopeek", "digits_05noise_00nopeek_20epochs_0005rate_32batch"


def test_names_say_what_they_said_once() -> None:
    spec = ClassifierSpec(**TUNED)
    assert names_of(ClassifierSpec, plain(spec)) == [NOW, THEN]
    assert names_of(ClassifierSpec, {"noise_scale": 0.5}) == [THEN], "all else at its default"
    among = {"clients": 3, "mode": "plain", "skew": 0.5, "drop": 0}
    named = {f"federated_{name}": value for name, value in among.items()}
    assert names_of(ClassifierSpec, {**plain(spec), **named}) == [
        f"{name}_federated3plain_05skew" for name in (NOW, THEN)
    ]
    attacker = AttackerSpec(model=f"{THEN}_epoch=03", surrogate="mnist", max_epochs=1, seed=2)
    assert names_of(AttackerSpec, {**plain(attacker), "target": "0" * 16}) == [
        f"mnist_attacker_1epochs_seed2_model<{THEN}_epoch=03>",
        f"mnist_attacker_seed2_model<{THEN}_epoch=03>",
    ]


@pytest.fixture
def of_then(tmp_path: Path, classifier_file: FileMaker) -> Path:
    """A classifier under the name it would have had before names said how it was trained."""
    made = classifier_file(tmp_path, epoch=3, **TUNED)
    assert made.name == f"{NOW}_epoch=03.ckpt"
    return made.rename(made.with_name(f"{THEN}_epoch=03.ckpt"))


def test_a_model_is_there_also_under_its_name_of_then(of_then: Path) -> None:
    arguments = plain(ClassifierSpec(**TUNED))
    assert checkpoints.already(of_then.parent, NOW, CLASSIFIER, arguments) == of_then
    for name in (NOW, THEN, f"{NOW}_epoch=03", f"{THEN}_epoch=03.ckpt"):
        assert checkpoints.find(of_then.parent, name, CLASSIFIER) == of_then
    other = ClassifierSpec(**{**TUNED, "max_epochs": 7})
    name = checkpoints.classifier_name(other)
    assert checkpoints.already(of_then.parent, name, CLASSIFIER, plain(other)) is None
    # The name of then is now that of another, which must not get in its way.
    default = ClassifierSpec(noise_scale=0.5)
    with pytest.raises(UsageError, match="exists with batch_size=32, not 128"):
        checkpoints.already(of_then.parent, THEN, CLASSIFIER, plain(default))


def test_a_name_of_then_finds_what_is_called_otherwise_now(
    tmp_path: Path, classifier_file: FileMaker
) -> None:
    path = classifier_file(tmp_path, epoch=3, **TUNED)
    for name in (THEN, f"{THEN}_epoch=03"):
        assert checkpoints.find(path.parent, name, CLASSIFIER) == path
    with pytest.raises(UsageError, match="unknown classifier"):
        checkpoints.find(path.parent, f"{THEN}_epoch=04", CLASSIFIER)
    second = classifier_file(tmp_path, epoch=1, **{**TUNED, "max_epochs": 7})
    with pytest.raises(UsageError, match="ambiguous") as raised:
        checkpoints.find(path.parent, THEN, CLASSIFIER)
    assert path.stem in one_line(raised) and second.stem in str(raised.value)
    # Who has the name now goes first.
    default = classifier_file(tmp_path, epoch=5, noise_scale=0.5)
    assert checkpoints.find(path.parent, THEN, CLASSIFIER) == default


def test_an_attacker_is_there_also_under_its_name_of_then(
    of_then: Path, tmp_path: Path, attacker_file: FileMaker
) -> None:
    made = attacker_file(tmp_path, of_then, max_epochs=1)
    assert made.name == f"digits_attacker_1epochs_model<{THEN}_epoch=03>.ckpt"
    stored = checkpoints.read(made, ATTACKER)
    path = made.rename(made.with_name(f"digits_attacker_model<{THEN}_epoch=03>.ckpt"))
    assert checkpoints.already(path.parent, made.stem, ATTACKER, stored.arguments) == path
    assert checkpoints.find(path.parent, made.stem, ATTACKER) == path
    spec = AttackerSpec(surrogate="digits", model=f"{THEN}_epoch=03", max_epochs=1)
    assert checkpoints.attacker_file(path.parent, spec) == path
    assert checkpoints.attacker_file(path.parent, dataclasses.replace(spec, max_epochs=2)) is None


# ---------------------------------------------------------------- saving


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    path, arguments = tmp_path / "new" / "a_epoch=00.ckpt", plain(ClassifierSpec(noise_scale=0.5))
    checkpoints.save(path, CLASSIFIER, arguments, RECORD, WEIGHTS)
    stored = checkpoints.read(path, CLASSIFIER)
    assert (stored.path, stored.stem) == (path, "a_epoch=00")
    assert (stored.arguments, stored.record) == (arguments, RECORD)
    assert stored.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(stored.weights[name], tensor) for name, tensor in WEIGHTS.items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_saving_never_overwrites(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="never overwritten") as raised:
        checkpoints.save(path, CLASSIFIER, {}, {}, {})
    assert str(path) in one_line(raised)
    assert path.read_bytes() == before


@pytest.mark.parametrize("module, function", [(torch, "save"), (os, "replace")])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    function: str,
    stop: type[BaseException],
) -> None:
    def half(content: object, file: Path) -> None:
        Path(file).write_bytes(b"half a file")
        raise stop

    monkeypatch.setattr(module, function, half)
    with pytest.raises(stop):
        checkpoints.save(tmp_path / "a.ckpt", CLASSIFIER, {}, RECORD, WEIGHTS)
    # What os.replace half did is its own; the temporary file must be gone.
    assert [f.name for f in tmp_path.iterdir() if f.name != "a.ckpt" or function == "save"] == []


def test_colliding_names_are_refused(tmp_path: Path, classifier_file: FileMaker) -> None:
    old, new = ClassifierSpec(noise_scale=1.05), ClassifierSpec(noise_scale=10.5)
    name = checkpoints.classifier_name(new)
    assert checkpoints.classifier_name(old) == name == "digits_105noise_00nopeek"
    path = classifier_file(tmp_path, noise_scale=1.05)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"noise_scale=1\.05, not 10\.5.*--models_dir") as raised:
        checkpoints.already(path.parent, name, CLASSIFIER, plain(new))
    assert path.name in one_line(raised)
    assert path.read_bytes() == before
    assert checkpoints.already(path.parent, name, CLASSIFIER, plain(old)) == path


def test_an_attacker_of_another_model_of_that_name_is_refused(
    tmp_path: Path, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    target = classifier_file(tmp_path)
    path = attacker_file(tmp_path, target)
    stored = checkpoints.read(path, ATTACKER)
    changed = {**stored.arguments, "target": "0" * 16}
    assert checkpoints.already(path.parent, stored.stem, ATTACKER, stored.arguments) == path
    with pytest.raises(UsageError, match="target="):
        checkpoints.already(path.parent, stored.stem, ATTACKER, changed)


@pytest.mark.parametrize("file", ["models", "models/classifiers"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("in the way")
    fine = tmp_path / "results"
    with pytest.raises(UsageError, match="cannot write to .*another folder") as raised:
        checkpoints.ensure_writable(fine, tmp_path / "models" / "classifiers")
    one_line(raised)
    assert not fine.exists()


# ---------------------------------------------------------------- finding


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with names only."""
    for name in (
        "a_00noise_epoch=01",
        "a_05noise_epoch=00",
        "a_05noise_epoch=03",
        "b<a>_set10noise",
    ):
        (tmp_path / f"{name}.ckpt").touch()
    return tmp_path


@pytest.mark.parametrize(
    "name, found",
    [
        ("a_00noise_epoch=01.ckpt", "a_00noise_epoch=01"),
        ("a_00noise_epoch=01", "a_00noise_epoch=01"),
        ("a_00noise", "a_00noise_epoch=01"),
        ("a_00noise.ckpt", "a_00noise_epoch=01"),
        ("a_05noise_epoch=03", "a_05noise_epoch=03"),
        ("b<a>_set10noise", "b<a>_set10noise"),
    ],
)
def test_find_takes_names_with_and_without_their_ends(shelf: Path, name: str, found: str) -> None:
    assert checkpoints.find(shelf, name, CLASSIFIER) == shelf / f"{found}.ckpt"
    elsewhere = shelf / "elsewhere"
    assert checkpoints.find(elsewhere, str(shelf / name), CLASSIFIER) == shelf / f"{found}.ckpt"


@pytest.mark.parametrize(
    "name, parts",
    [
        ("a_05noise", ["ambiguous", "a_05noise_epoch=00", "a_05noise_epoch=03"]),
        ("a", ["unknown classifier 'a'", "a_00noise_epoch=01", "train_model"]),
        ("a_*noise", ["unknown classifier 'a_*noise'"]),
        ("", ["unknown classifier ''"]),
        ("a_00noise_epoch=02", ["unknown classifier", "a_00noise_epoch=01"]),
    ],
)
def test_find_refuses_what_does_not_name_one_file(shelf: Path, name: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        checkpoints.find(shelf, name, CLASSIFIER)
    assert all(part in one_line(raised) for part in parts)


def test_find_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds nothing yet: train it with scripts/train_attacker"):
        checkpoints.find(tmp_path / "missing", "a", ATTACKER)


# ---------------------------------------------------------------- what a stranger's file gets


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_the_bomb_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", [CLASSIFIER, ATTACKER])
@pytest.mark.parametrize("spot", ["arguments", "record", "state_dict", "dpsnn", "pickle", "legacy"])
def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path: Path, kind: str, spot: str) -> None:
    path, mark = tmp_path / "a.ckpt", tmp_path / "mark"
    if spot == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    elif spot == "legacy":
        torch.save({"x": Bomb(mark)}, path, _use_new_zipfile_serialization=False)
    else:
        write(path, **{"dpsnn": kind, spot: {"x": Bomb(mark)}})
    with pytest.raises(UsageError, match="refused: it could run code") as raised:
        checkpoints.read(path, kind)
    assert str(path) in one_line(raised)
    assert not mark.exists()


def truncated(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-200])


def headless(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[200:])


@pytest.mark.parametrize(
    "make, part",
    [
        (truncated, "damaged"),
        (headless, ""),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_text("Just some text.\n"), ""),
        (lambda path: path.write_bytes(bytes(range(256)) * 9), ""),
        (lambda path: path.mkdir(), ""),
        (lambda path: torch.save({"state_dict": WEIGHTS}, path), "not a dpsnn classifier"),
        (lambda path: torch.save(torch.zeros(3), path), "not a dpsnn classifier"),
        (lambda path: write(path, dpsnn=ATTACKER), "not a dpsnn classifier"),
        (lambda path: write(path, format=4), "format 4, not 1 to 3"),
        (lambda path: write(path, format=0), "format 0, not 1 to 3"),
        (lambda path: write(path, format=None), "format None, not 1 to 3"),
        (lambda path: write(path, format=True), "format bool, not 1 to 3"),
        (lambda path: write(path, format=2.0), "format float, not 1 to 3"),
        (lambda path: write(path, format=10**100), "format int, not 1 to 3"),
        (lambda path: write(path, format=10**400), "a number is too large"),
        (lambda path: write(path, format=torch.tensor([1, 2])), "format Tensor, not 1 to 3"),
        (lambda path: write(path, arguments=None), "parts are missing"),
        (lambda path: write(path, arguments={"noise_scale": 0.5}), "parts are missing"),
        (lambda path: write(path, arguments={"dataset": torch.zeros(2)}), "of the wrong type"),
        (lambda path: write(path, record=[]), "of the wrong type"),
        (lambda path: write(path, record={}), "parts are missing"),
        (lambda path: write(path, state_dict={"weight": [1.0]}), "of the wrong type"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(
    tmp_path: Path, make: Callable[[Path], object], part: str
) -> None:
    path = tmp_path / "a.ckpt"
    make(path)
    with pytest.raises(UsageError) as raised:
        checkpoints.read(path, CLASSIFIER)
    assert str(path) in one_line(raised) and part in one_line(raised)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train it first"):
        checkpoints.read(tmp_path / "a.ckpt", CLASSIFIER)


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"noise_scale": "0.5"}, "noise_scale='0.5'"),
        ({"noise_scale": None}, "noise_scale=None"),
        ({"max_epochs": 1.5}, "max_epochs=1.5"),
        ({"validator": "yes"}, "validator='yes'"),
        ({"noise_scale": -1.0}, "noise_scale is -1.0"),
        ({"dataset": "mnits"}, "unknown dataset 'mnits'"),
        ({"dataset": 5}, "dataset=5"),
        ({"network": "resnet"}, "unknown network 'resnet'"),
        ({}, "does not fit the network"),
    ],
)
def test_arguments_and_weights_must_fit(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    path = write(tmp_path / "a.ckpt", arguments={**plain(ClassifierSpec()), **changes})
    with pytest.raises(UsageError) as raised:
        checkpoints.load_classifier(path)
    assert part in one_line(raised)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    weights = building.build_classifier(ClassifierSpec()).state_dict()
    name = "network.server.2.bias"
    path = write(tmp_path / "a.ckpt", state_dict={**weights, name: torch.zeros(26)})
    with pytest.raises(UsageError, match="does not fit the network") as raised:
        checkpoints.load_classifier(path)
    one_line(raised)


def test_an_attacker_with_another_decoders_weights_is_refused(
    tmp_path: Path, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    target = classifier_file(tmp_path)
    path = attacker_file(tmp_path, target)
    change(path, lambda content: content["arguments"].update(decoder="linear"))
    path = path.rename(tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match="does not fit the network") as raised:
        checkpoints.load_attacker(path, Target.of(checkpoints.load_classifier(target)[0]))
    one_line(raised)


def test_a_whole_number_serves_as_a_float(tmp_path: Path, classifier_file: FileMaker) -> None:
    path = classifier_file(tmp_path)
    change(path, lambda content: content["arguments"].update(nopeek_weight=1))
    path = path.rename(tmp_path / "a.ckpt")
    assert checkpoints.load_classifier(path)[1].nopeek_weight == 1


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "changed, same",
    [
        ({"weight": WEIGHTS["weight"].clone(), "count": torch.tensor(3)}, True),
        (dict(reversed(WEIGHTS.items())), True),
        ({**WEIGHTS, "weight": WEIGHTS["weight"].t().contiguous().t()}, True),
        ({**WEIGHTS, "weight": WEIGHTS["weight"] + 1e-6}, False),
        ({**WEIGHTS, "count": torch.tensor(4)}, False),
        ({"other": WEIGHTS["weight"], "count": WEIGHTS["count"]}, False),
        ({"weight": WEIGHTS["weight"]}, False),
    ],
)
def test_digest_is_of_names_and_values(changed: dict[str, Tensor], same: bool) -> None:
    assert (checkpoints.digest(changed) == checkpoints.digest(WEIGHTS)) is same
    assert len(checkpoints.digest(changed)) == 16


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"noise_scale": 0.5, "gaussian_std": 0.1, "nopeek_weight": 0.5},
        {"clip_std": 0.5, "quantise_bits": 3},
        {"validator": True},
    ],
)
def test_a_classifier_is_rebuilt_from_its_file(
    tmp_path: Path, classifier_file: FileMaker, arguments: dict[str, Any]
) -> None:
    original = building.build_classifier(ClassifierSpec(**arguments)).eval()
    rebuilt, spec, stored = checkpoints.load_classifier(classifier_file(tmp_path, **arguments))
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    outputs = []
    for classifier in (original, rebuilt):
        torch.manual_seed(1)  # of the noise
        outputs.append(classifier(images))
    assert torch.equal(*outputs)
    assert spec == ClassifierSpec(**arguments)
    assert [repr(d) for d in rebuilt.defences] == [repr(d) for d in original.defences]
    assert stored.digest == checkpoints.digest(original.state_dict())
    assert not rebuilt.training


@pytest.mark.parametrize("arguments", [{}, {"decoder": "linear", "naive": True}])
def test_an_attacker_is_rebuilt_from_its_file(
    tmp_path: Path,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    arguments: dict[str, Any],
) -> None:
    target = classifier_file(tmp_path)
    path = attacker_file(tmp_path, target, **arguments)
    classifier = checkpoints.load_classifier(target)[0]
    rebuilt, spec, _ = checkpoints.load_attacker(path, Target.of(classifier))
    original = building.build_attack(spec, Target.of(classifier)).eval()
    smashed = torch.rand(3, 500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rebuilt.reconstruct(smashed), original.reconstruct(smashed))
    assert (spec.decoder, rebuilt.naive) == (arguments.get("decoder", "conv"), spec.naive)
