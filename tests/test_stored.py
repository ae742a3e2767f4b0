"""What a checkpoint says is believed only where this version understands all of it, and under its own name."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resealed import as_format_1, change

from dpsnn import building, checkpoints, sealed
from dpsnn.checkpoints import ATTACKER, CLASSIFIER, DEVICE
from dpsnn.errors import UsageError
from dpsnn.federated.spec import FederatedSpec, Settings, arguments
from dpsnn.secure import device
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain
from dpsnn.stored import FEDERATED
from dpsnn.target import Target

FileMaker = Callable[..., Path]


def refused(call: Callable[..., Any], *given: Any) -> str:
    """The one line with which it is refused."""
    with pytest.raises(UsageError) as raised:
        call(*given)
    line = str(raised.value)
    assert line.splitlines() == [line]
    return line


@pytest.fixture
def classifier(tmp_path: Path, classifier_file: FileMaker) -> Path:
    return classifier_file(tmp_path, noise_scale=0.5)


@pytest.fixture
def attacker(tmp_path: Path, classifier: Path, attacker_file: FileMaker) -> Path:
    return attacker_file(tmp_path, classifier)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("earlier", [False, True])
def test_a_damaged_checkpoint_never_gives_other_weights(
    tmp_path: Path, classifier_file: FileMaker, earlier: bool
) -> None:
    classifier = classifier_file(tmp_path, network="lenet5")  # small, as it is read 60 times
    if earlier:
        as_format_1(classifier)
    weights = checkpoints.read(classifier, CLASSIFIER).digest
    whole, draw = classifier.read_bytes(), random.Random(1)
    told = 0
    for _ in range(60):
        damaged = bytearray(whole)
        # In the weights, in what describes them, and in the list of entries at the end.
        place = draw.choice(
            [draw.randrange(len(whole)), draw.randrange(4000), -draw.randrange(1, 3000)]
        )
        damaged[place] ^= 1 << draw.randrange(8)
        classifier.write_bytes(damaged)
        try:
            assert checkpoints.read(classifier, CLASSIFIER).digest == weights
        except UsageError as error:
            assert str(classifier) in str(error)
            told += 1
    assert told > 30


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["state_dict"]["network.client.1.bias"].add_(1e-7),
        lambda content: content["arguments"].update(noise_scale=0.0),
        lambda content: content["record"].update(best=1.0),
        lambda content: content.update(format=1),
    ],
)
def test_whoever_changes_a_checkpoint_without_sealing_it_is_found_out(
    classifier: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    content = torch.load(classifier, weights_only=True)
    edit(content)
    torch.save(content, classifier)
    assert "holds not what was written" in refused(checkpoints.read, classifier, CLASSIFIER)


def test_the_digest_cannot_be_left_out(classifier: Path) -> None:
    content = torch.load(classifier, weights_only=True)
    del content["digest"]
    torch.save(content, classifier)
    assert "parts are missing" in refused(checkpoints.read, classifier, CLASSIFIER)
    # Of format 1 it never was there.
    change(classifier, lambda content: content.update(format=1))
    assert "wrong type" in refused(checkpoints.read, classifier, CLASSIFIER)


def test_a_checkpoint_of_format_1_is_read(classifier: Path, attacker: Path) -> None:
    before = {path: path.read_bytes() for path in (classifier, attacker)}
    digests = [checkpoints.load_classifier(classifier)[2].digest]
    digests.append(checkpoints.read(attacker, ATTACKER).digest)
    for path in before:
        as_format_1(path)
    target, spec, stored = checkpoints.load_classifier(classifier)
    assert spec.noise_scale == 0.5 and stored.digest == digests[0]
    assert checkpoints.load_attacker(attacker, Target.of(target))[2].digest == digests[1]


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", ["rotation_noise", "target", "Noise_scale", "noise_scale\n"])
def test_a_defence_that_this_version_does_not_know_is_not_taken_for_none(
    classifier: Path, name: str, earlier: bool
) -> None:
    make = as_format_1 if earlier else change
    make(classifier, lambda content: content["arguments"].update({name: 3.0}))
    line = refused(checkpoints.read, classifier, CLASSIFIER)
    assert "does not know and cannot heed" in line or not name.isprintable()


def test_a_missing_argument_is_refused_but_in_files_that_are_older_than_it(
    classifier: Path, attacker: Path
) -> None:
    for path, kind, name in (
        (classifier, CLASSIFIER, "gaussian_std"),
        (attacker, ATTACKER, "queries"),
    ):
        change(path, lambda content: content["arguments"].pop(name))
        assert f"lacks the argument '{name}'" in refused(checkpoints.read, path, kind)
        as_format_1(path)
        checkpoints.read(path, kind)
    assert checkpoints.load_classifier(classifier)[1] == ClassifierSpec(noise_scale=0.5)


@pytest.mark.parametrize("name", ["noise_scale", "max_epochs", "dropout", "dp_delta", "seed"])
def test_a_truth_value_is_no_number(tmp_path: Path, classifier: Path, name: str) -> None:
    path = classifier.rename(tmp_path / "mine.ckpt")
    change(path, lambda content: content["arguments"].update({name: True}))
    assert f"{name}=True, of the wrong type" in refused(checkpoints.load_classifier, path)


def test_the_arguments_of_federated_classifiers_are_known(tmp_path: Path) -> None:
    settings = Settings(
        classifier=ClassifierSpec(),
        federated=FederatedSpec(skew=0.5),
        mode="plain",
        data_dir="",
        folder="",
    )
    given = arguments(settings)
    assert given.keys() - plain(ClassifierSpec()).keys() == FEDERATED.keys()
    folder = checkpoints.classifiers_dir(tmp_path)
    path = folder / "digits_00noise_00nopeek_federated5plain_05skew_epoch=09.ckpt"
    weights = building.build_classifier(ClassifierSpec()).state_dict()
    record = {"epoch": 9, "precision": "32-true"}
    checkpoints.save(path, CLASSIFIER, given, record, weights)
    assert checkpoints.load_classifier(path)[2].arguments == given
    change(path, lambda content: content["arguments"].update(federated_skew="0.5"))
    assert "wrong type" in refused(checkpoints.read, path, CLASSIFIER)
    change(path, lambda content: content["arguments"].pop("federated_skew"))
    assert "lacks the argument 'federated_skew'" in refused(checkpoints.read, path, CLASSIFIER)


# ---------------------------------------------------------------- records


@pytest.mark.parametrize(
    "record",
    [
        {"epoch": -1},
        {"epoch": 2**31},
        {"epoch": 10**100},
        {"epoch": True},
        {"epoch": 0.0},
        {"epoch": torch.tensor(0)},
        {"precision": 32},
        {"best": "0.9"},
        {"best": torch.tensor([0.9, 0.8])},
        {"dp_epsilon": "2.35"},
        {"dp_noise_multiplier": None},
        {1: "a key that is no word"},
    ],
)
def test_a_record_of_the_wrong_type_or_beyond_all_bounds_is_refused(
    classifier: Path, record: dict[Any, Any]
) -> None:
    change(classifier, lambda content: content["record"].update(record))
    assert "of the wrong type" in refused(checkpoints.read, classifier, CLASSIFIER)


SHAPE = (1, 28, 28)


@pytest.mark.parametrize(
    "image",
    [
        None,
        0.5,
        [[0.5]],
        torch.full(SHAPE, 0.5, dtype=torch.float64),
        torch.zeros(SHAPE, dtype=torch.uint8),
        torch.full(SHAPE[1:], 0.5),
        torch.zeros(0, 28, 28),
        torch.full(SHAPE, 1.5),
        torch.full(SHAPE, -0.5),
    ],
)
def test_a_mean_image_that_is_none_is_refused(attacker: Path, image: Any) -> None:
    change(attacker, lambda content: content["record"].update(mean_image=image))
    assert "of the wrong type" in refused(checkpoints.read, attacker, ATTACKER)


def test_a_mean_image_whose_pixels_are_one_is_refused(attacker: Path) -> None:
    as_format_1(
        attacker,
        lambda content: content["record"].update(
            mean_image=torch.full((1, 1, 1), 0.5).expand(SHAPE)
        ),
    )
    assert "share memory" in refused(checkpoints.read, attacker, ATTACKER)


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 28, 27), (1, 1, 1)])
def test_a_mean_image_has_the_shape_of_the_targets_images(
    classifier: Path, attacker: Path, shape: tuple[int, ...]
) -> None:
    change(attacker, lambda content: content["record"].update(mean_image=torch.zeros(shape)))
    target = checkpoints.load_classifier(classifier)[0]
    assert f"mean image of shape {shape}" in refused(
        checkpoints.load_attacker, attacker, Target.of(target)
    )


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "cast",
    [
        lambda weight: weight.double(),
        lambda weight: weight.half(),
        lambda weight: weight.to(torch.bfloat16),
        lambda weight: weight.long(),
        lambda weight: weight[:1],
        lambda weight: weight[None],
    ],
)
def test_weights_of_another_dtype_or_shape_are_refused(
    classifier: Path, cast: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    name = "network.client.1.bias"

    def edit(content: dict[str, Any]) -> None:
        content["state_dict"][name] = cast(content["state_dict"][name])

    change(classifier, edit)
    assert "does not fit the network" in refused(checkpoints.load_classifier, classifier)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "digits_00noise_00nopeek_epoch=00",
        "digits_05noise_00nopeek_epoch=01",
        "digits_05noise_00nopeek_epoch=0",
        "digits_05noise_00nopeek",
        "mine",
    ],
)
def test_a_classifier_among_others_bears_its_own_name(classifier: Path, name: str) -> None:
    renamed = classifier.rename(classifier.with_name(f"{name}.ckpt"))
    line = refused(checkpoints.read, renamed, CLASSIFIER)
    assert "rename it digits_05noise_00nopeek_epoch=00.ckpt" in line and str(renamed) in line


def test_elsewhere_a_file_may_have_a_name_of_ones_own_but_not_anothers(
    tmp_path: Path, classifier: Path
) -> None:
    own = classifier.rename(tmp_path / "mine.ckpt")
    assert checkpoints.load_classifier(own)[1].noise_scale == 0.5
    anothers = own.rename(tmp_path / "digits_10noise_00nopeek_epoch=00.ckpt")
    assert "rename it" in refused(checkpoints.load_classifier, anothers)


def test_an_attacker_bears_its_own_name(attacker: Path) -> None:
    name = attacker.name.replace("_model", "_linear_model")
    line = refused(checkpoints.read, attacker.rename(attacker.with_name(name)), ATTACKER)
    assert f"rename it {attacker.name}" in line


def test_a_client_half_bears_its_own_name(tmp_path: Path, classifier: Path) -> None:
    path, pairing = device.export(classifier, tmp_path)
    assert device.Device(path).pairing == pairing
    renamed = path.rename(path.with_name(path.name.replace("05noise", "10noise")))
    assert f"rename it {path.name}" in refused(checkpoints.read, renamed, DEVICE)


@pytest.mark.parametrize("kind", [CLASSIFIER, DEVICE])
def test_one_kind_is_not_taken_for_another(attacker: Path, kind: str) -> None:
    assert f"is not a dpsnn {kind}" in refused(checkpoints.read, attacker, kind)


def test_names_of_arguments_are_those_of_their_specs() -> None:
    spec, attack = ClassifierSpec(noise_scale=0.5, seed=2), AttackerSpec(
        model="m", surrogate="digits"
    )
    assert checkpoints.names_of(ClassifierSpec, plain(spec))[0] == checkpoints.classifier_name(spec)
    given = {**plain(attack), "target": "0" * 16}
    assert checkpoints.names_of(AttackerSpec, given)[0] == checkpoints.attacker_name(attack)
    assert sealed.DIGEST == "digest"
