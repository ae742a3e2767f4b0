"""Federated training, the parts that need no Flower: partition, specification, quantisation, command line."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpsnn import building
from dpsnn.cli import main
from dpsnn.data import DATASETS
from dpsnn.errors import UsageError
from dpsnn.federated.audit import audit
from dpsnn.federated.local import OwnImages, get_weights, set_weights, train_locally
from dpsnn.federated.partition import partition
from dpsnn.federated.processes import Failed, Processes
from dpsnn.federated.quantisation import RING, error_bound, levels
from dpsnn.federated.spec import FederatedSpec, Settings, arguments, threshold
from dpsnn.specs import ClassifierSpec

LABELS = torch.arange(1000) % 10


# ---------------------------------------------------------------- partition


@pytest.mark.parametrize("skew", [0.0, 0.3, 100.0])
@pytest.mark.parametrize("clients", [3, 7])
def test_every_image_is_on_exactly_one_client(clients: int, skew: float) -> None:
    parts = partition(LABELS, clients, seed=1, skew=skew)
    assert len(parts) == clients
    assert torch.cat(parts).sort().values.tolist() == list(range(1000))


def test_without_skew_parts_are_of_equal_size_and_at_random() -> None:
    parts = partition(LABELS, 3, seed=0)
    assert [len(part) for part in parts] == [334, 333, 333]
    assert parts[0].tolist() != sorted(parts[0].tolist())
    counts = torch.stack([LABELS[part].bincount(minlength=10) for part in parts])
    assert counts.min() > 15


def test_same_seed_same_rows_other_seed_others() -> None:
    first, again, other = (partition(LABELS, 4, seed, 0.5) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))


def test_small_concentration_gives_clients_few_classes_and_large_gives_nearly_even_ones() -> None:
    def largest_class(skew: float) -> float:
        parts = partition(LABELS, 5, seed=3, skew=skew)
        shares = [LABELS[p].bincount(minlength=10).max().item() / len(p) for p in parts]
        return float(np.mean(shares))

    assert largest_class(0.1) > 0.3
    assert largest_class(1000.0) < 0.13


@pytest.mark.parametrize(("clients", "skew", "word"), [(600, 0.0, "too few"), (90, 0.001, "skew")])
def test_a_client_without_images_is_refused(
    monkeypatch: pytest.MonkeyPatch, clients: int, skew: float, word: str
) -> None:
    monkeypatch.setattr("dpsnn.federated.partition.DRAWS", 3)
    with pytest.raises(UsageError, match=word):
        partition(LABELS, clients, seed=0, skew=skew)


# ---------------------------------------------------------------- specification


@pytest.mark.parametrize("clients", range(3, 101))
def test_two_thirds_are_needed_and_every_round_keeps_three(clients: int) -> None:
    spec = FederatedSpec(clients=clients)
    assert clients / 2 < threshold(clients) <= clients
    assert clients - spec.spare >= max(3, threshold(clients))


def test_settings_survive_the_file(tmp_path: Path) -> None:
    settings = Settings(
        classifier=ClassifierSpec(dp_noise_multiplier=1.5),
        federated=FederatedSpec(clients=4, skew=0.5),
        mode="secure",
        data_dir="data",
        folder=str(tmp_path),
    )
    assert Settings.read(settings.write()) == settings


def test_arguments_of_a_checkpoint_hold_all_that_shapes_the_training_and_no_machine() -> None:
    settings = Settings(
        classifier=ClassifierSpec(),
        federated=FederatedSpec(),
        mode="plain",
        data_dir="/here",
        folder="/there",
    )
    kept = arguments(settings)
    assert (kept["federated_clients"], kept["federated_mode"], kept["seed"]) == (5, "plain", 0)
    assert not {"data_dir", "folder", "federated_timeout"} & kept.keys()
    assert all(isinstance(value, str | int | float | None) for value in kept.values())


# ---------------------------------------------------------------- quantisation


@pytest.mark.parametrize("clients", range(2, 101))
def test_the_sum_of_all_clients_fits_the_ring(clients: int) -> None:
    # Every client may add R at most; Flower's integers are of 32 bits with a sign.
    assert clients * levels(clients) < RING
    assert levels(clients) < 2**31


def test_error_bound_of_the_closed_form() -> None:
    # 5 clients: R = 2**29; 5 · (2 + 0.5) / R, the share corrected by 5 / 2R.
    assert error_bound(5, 1.0, 0.5) == pytest.approx(12.5 / 2**29)
    assert error_bound(3, 0.6, 0.5, most=5) == pytest.approx(7.5 / 2**29 / 0.6)


def test_audit_finds_the_difference_and_leaves_no_update_behind(tmp_path: Path) -> None:
    updates = {0: [0.1, 0.2], 1: [0.4, -0.4]}
    for client, update in updates.items():
        np.save(tmp_path / f"update_2_{client}.npy", np.float32(update))
    np.save(tmp_path / "average_2.npy", np.array([0.3, -0.2 + 1e-6]))
    found = audit(tmp_path, 2, {0: 10, 1: 20, 2: 10}, clients=3)
    assert found.difference == pytest.approx(1e-6, rel=0.05)
    assert found.largest == pytest.approx(0.4)
    assert found.bound == pytest.approx(error_bound(2, 0.75, found.largest, 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [True, False])
def test_nothing_bounds_an_average_of_what_is_not_finite(tmp_path: Path, first: bool) -> None:
    for client in (0, 1):
        update = [0.1, np.nan if (client == 0) == first else 0.2]
        np.save(tmp_path / f"update_1_{client}.npy", np.float32(update))
    np.save(tmp_path / "average_1.npy", np.array([0.1, 0.2]))
    assert np.isnan(audit(tmp_path, 1, {0: 10, 1: 20}, clients=2)).all()


# ---------------------------------------------------------------- a client's training


def test_weights_go_out_and_come_back() -> None:
    from dpsnn import checkpoints

    first = building.build_classifier(ClassifierSpec(network="lenet5"))
    second = building.build_classifier(ClassifierSpec(network="lenet5", seed=1))
    set_weights(second, get_weights(first))
    assert checkpoints.digest(first.state_dict()) == checkpoints.digest(second.state_dict())
    with pytest.raises(ValueError):
        set_weights(second, get_weights(first)[1:])
    assert checkpoints.digest(first.state_dict()) == checkpoints.digest(second.state_dict())


def test_training_is_repeatable_and_depends_on_the_seed() -> None:
    from dpsnn import checkpoints

    pixels, labels = DATASETS["digits"]().tensors("train")

    def trained(seed: int) -> str:
        classifier = building.build_classifier(ClassifierSpec(network="lenet5", noise_scale=0.1))
        images = OwnImages(pixels[:64], labels[:64], 32, seed, poisson=False)
        train_locally(classifier, images, 1, seed, None)
        return checkpoints.digest(classifier.state_dict())

    assert trained(1) == trained(1) != trained(2)


# ---------------------------------------------------------------- command line


def lines_of(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> list[str]:
    assert main(["federated", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.strip().splitlines()


BAD: dict[str, Any] = {
    "clients": (["--clients", "2"], "clients is 2"),
    "rounds": (["--rounds", "0"], "rounds is 0"),
    "epochs": (["--local_epochs", "0"], "local_epochs is 0"),
    "skew": (["--skew", "-1"], "skew is -1"),
    "timeout": (["--timeout", "0"], "timeout is 0"),
    "drop": (["--clients", "5", "--drop", "3"], "at most 2 may be lost"),
    "dataset": (["--dataset", "digit"], "unknown dataset 'digit'"),
    "network": (["--network", "resnet"], "unknown network 'resnet'"),
    "noise": (["--dp_noise_multiplier", "-1"], "dp_noise_multiplier is -1"),
    "budget": (["--dp_target_epsilon", "3"], "unrecognized arguments"),
    "pair": (["--nopeek_weight", "1", "--dp_noise_multiplier", "1"], "voids the guarantee"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_exit_2_with_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    words, text = BAD[name]
    (line,) = lines_of(capsys, words)
    assert text in line


def test_without_flower_one_line_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "flwr" else find(name, *a)
    )
    (line,) = lines_of(capsys, [])
    assert "pip install -e '.[federated]'" in line


def test_dry_run_prints_the_commands_of_both_runs(
    capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    assert main(["federated", "--clients", "4", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (2 + 4 + 1)
    assert list(place.iterdir()) == []


# ---------------------------------------------------------------- processes


def ended(name: str, tmp_path: Path) -> Processes:
    """A run of four clients in which process `name` has ended."""
    spec = FederatedSpec(clients=4)
    settings = Settings(
        classifier=ClassifierSpec(),
        federated=spec,
        mode="secure",
        data_dir="data",
        folder=str(tmp_path),
    )
    processes = Processes(settings, tmp_path)
    processes.running[name] = subprocess.Popen([sys.executable, "-c", ""])
    processes.running[name].wait()
    return processes


@pytest.mark.parametrize(
    ("name", "called"), [("superlink", "SuperLink"), ("superexec", "SuperExec")]
)
def test_a_run_fails_in_one_line_without_what_carries_it(
    name: str, called: str, tmp_path: Path
) -> None:
    with pytest.raises(Failed, match=f"the {called} ended early; see .*{name}.log"):
        ended(name, tmp_path).check()


def test_a_run_goes_on_without_a_client_that_it_can_spare(tmp_path: Path) -> None:
    ended("client_2", tmp_path).check()
