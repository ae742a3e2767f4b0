"""One training on several devices: the batches of one, the weights of one, and what cannot be shared."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from test_interruption import files, train_until
from torch import nn

from dpsnn import checkpoints, cli
from dpsnn.batches import Share, TensorBatches, derived_seed
from dpsnn.building import build_classifier
from dpsnn.checkpoints import CLASSIFIER
from dpsnn.classifier import SplitClassifier
from dpsnn.cores import cores
from dpsnn.ddp import Alike, Counted, FairMean, OwnSignals, joined
from dpsnn.defences import DefenceModule
from dpsnn.devices import recorded
from dpsnn.errors import UsageError, WorkFailed
from dpsnn.runner.beside import beside, check_there, refuse_coupled, refuse_unshared
from dpsnn.specs import ClassifierSpec
from dpsnn.training import _SeedEpochs

CORES = cores()


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("of", [1, 2, 3, 6])
def test_shares_put_together_are_the_batches_of_one_device(of: int, seed: int | None) -> None:
    rows = torch.arange(20)  # batches of 6, 6, 6 and 2
    whole = [batch for batch, in TensorBatches(rows, batch_size=6, shuffle_seed=seed, passes=2)]
    each = [
        TensorBatches(rows, batch_size=6, shuffle_seed=seed, passes=2, share=Share(rank, of))
        for rank in range(of)
    ]
    assert {len(loader) for loader in each} == {len(whole)}
    for index, parts in enumerate(zip(*each)):
        counted = [
            part for (part,), own in zip(parts, each) if own.weight(index)
        ]  # whoever has none left has a row that does not count
        assert torch.cat(counted).tolist() == whole[index].tolist()
        assert all(len(part) for part, in parts)


@pytest.mark.parametrize("count, of", [(6, 2), (7, 2), (7, 3), (2, 3), (1, 4)])
def test_the_mean_over_devices_of_weighted_means_is_the_mean_over_rows(count: int, of: int) -> None:
    rows = torch.randn(count, dtype=torch.float64)
    shares = [Share(rank, of) for rank in range(of)]
    means = [share.weight(count) * rows[share.rows(count)].mean() for share in shares]
    torch.testing.assert_close(sum(means) / of, rows.mean())


def test_a_share_weighs_in_by_its_gradient() -> None:
    fair, weight = FairMean(), torch.tensor(3.0, requires_grad=True)
    loader = TensorBatches(torch.arange(7), batch_size=4, share=Share(1, 2))
    trainer = Mock(spec=pl.Trainer, train_dataloader=loader)
    gradients = []
    for index in range(2):  # 4 rows, of which it has 2; 3 rows, of which it has 2
        weight.grad = None
        loss = weight * weight
        fair.on_train_batch_start(trainer, pl.LightningModule(), None, index)
        fair.on_before_backward(trainer, pl.LightningModule(), loss)
        loss.backward()
        assert weight.grad is not None
        gradients.append(weight.grad.item())
    assert gradients == pytest.approx([6.0, 6.0 * 2 * 2 / 3])


def test_devices_draw_noise_of_their_own_and_the_first_that_of_one_device() -> None:
    drawn = {}
    trainer = Mock(spec=pl.Trainer, current_epoch=4)
    for rank in range(3):
        _SeedEpochs(5, rank).on_train_epoch_start(trainer, pl.LightningModule())
        drawn[rank] = torch.initial_seed()
    assert drawn[0] == derived_seed(5, 2, 4)
    assert len({*drawn.values()}) == 3


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "words, said",
    [
        ("--devices 0", "devices is 0; it must be a whole number from 1"),
        ("--strategy ddp", "says nothing about one device; add --devices"),
        ("--devices 2 --strategy fsdp", "unknown strategy 'fsdp'; choose from ['auto', 'ddp']"),
        ("--devices 3", "batch_size is 128, of all devices together, and 3 of them cannot share"),
        ("--devices 16", "devices is 16, but this machine has 8 cores; lower --devices"),
        ("--devices 2 --nopeek_weight 0.1", "leave out --devices, or --nopeek_weight"),
        ("--devices 2 --dp_noise_multiplier 1", "DP-SGD draws lots and noise in one process"),
        ("--devices 2 --validator", "is a BatchNorm2d: each device would take the statistics"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_trained(
    place: Path, capsys: pytest.CaptureFixture[str], many_cores: None, words: str, said: str
) -> None:
    assert cli.main(["train_model", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert files(place) == []


def test_no_more_devices_than_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="this machine has 1 GPU; lower --devices"):
        check_there(2)


def test_a_defence_that_learns_by_itself_is_refused() -> None:
    class Adversary(DefenceModule):
        def optimiser(self) -> torch.optim.Optimizer | None:
            return None

    with pytest.raises(UsageError, match="Adversary learns .* leave out --devices"):
        refuse_unshared(nn.Sequential(Adversary()))


class Together(nn.Module):
    """Takes the mean of the batch away."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - images.mean(0)


class Apart(DefenceModule):
    """Wants activations of a batch to differ, and does not say so."""

    def penalty(self, images: Any, smashed: torch.Tensor, labels: Any = None) -> torch.Tensor:
        return -1e-3 * smashed.flatten(1).std(0).mean()


def classifier(**settings: Any) -> SplitClassifier:
    return build_classifier(ClassifierSpec(dataset="digits", **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"noise_scale": 0.5, "wire_precision": "bfloat16"},
        {"clip_std": 0.3, "clip_radius": 2.0},
        {"clamp_scale": 0.3, "clamp_radius": 0.5, "quantise_bits": 4},
        {"network": "lenet5", "suppress_sparsity": 0.5},
    ],
)
def test_what_adds_up_over_images_is_shared(settings: dict[str, Any]) -> None:
    whole = classifier(**settings)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    refuse_coupled(whole)
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())


def test_what_takes_images_of_a_batch_together_without_saying_so_is_refused() -> None:
    whole = classifier(noise_scale=0.5)
    whole.defences.append(Apart())
    with pytest.raises(UsageError, match="depends on the images beside it .* leave out --devices"):
        refuse_coupled(whole)
    whole = classifier()
    whole.network.server = nn.Sequential(Together(), whole.network.server)
    with pytest.raises(UsageError, match="depends on the images beside it"):
        refuse_coupled(whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_devices_that_no_longer_agree_are_found_by_any_bit(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Another device drew noise on a weight of its own, or has seen other images."""
    modules = [pl.LightningModule() for _ in range(3)]
    for rank, module in enumerate(modules):
        module.register_buffer("same", torch.arange(3))
        module.register_buffer("seen", torch.tensor(rank // 2).to(dtype))
    every: list[torch.Tensor] = []

    def gather(found: list[torch.Tensor], own: torch.Tensor) -> None:
        every.append(own.clone())
        found[:] = [*every, *found[len(every) :]]

    def end_of_epoch(of: list[pl.LightningModule]) -> None:
        every.clear()
        for module in of:
            trainer = Mock(spec=pl.Trainer, world_size=len(every) + 1, current_epoch=4)
            Alike().on_train_epoch_end(trainer, module)

    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    end_of_epoch(modules[:2])
    with pytest.raises(UsageError, match="after epoch 5 device 2 has another seen than device 0"):
        end_of_epoch(modules)


def test_sigterm_stays_with_whom_it_was() -> None:
    before = signal.getsignal(signal.SIGTERM)
    own, theirs = Mock(), Mock()
    try:
        signal.signal(signal.SIGTERM, own)
        left = OwnSignals()
        signal.signal(signal.SIGTERM, theirs)
        left.on_train_start(Mock(spec=pl.Trainer), pl.LightningModule())
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    own.assert_called_once()
    theirs.assert_not_called()


@pytest.mark.parametrize(
    "calls, said",
    [([1, 1], {}), ([2, 2], {"devices": 2}), ([3, 3, 1], {"devices": [3, 1]}), ([], {})],
)
def test_every_number_of_devices_is_recorded(calls: list[int], said: dict[str, Any]) -> None:
    kept: dict[str, Any] = {"counts": []}
    for devices in calls:  # one that is interrupted after each epoch
        counted = Counted(devices)
        counted.load_state_dict(kept)
        counted.on_train_epoch_start(Mock(spec=pl.Trainer), pl.LightningModule())
        kept = counted.state_dict()
    assert recorded(kept["counts"]) == said


# ---------------------------------------------------------------- processes


def end(share: Share) -> None:
    """What other devices do here."""
    if share.rank == 2:
        os._exit(3)
    torch.distributed.barrier()


@pytest.mark.slow
def test_a_device_that_is_gone_is_named_and_not_one_that_missed_it() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(WorkFailed, match="^device 2 failed: its process ended with exit code 3$"):
        with beside(3, end):
            torch.distributed.barrier()
    assert torch.get_num_threads() == threads
    assert not torch.distributed.is_initialized()


def stop(share: Share) -> None:
    """What another device does here."""
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.slow
def test_ctrl_c_is_heard_while_a_device_does_not_answer() -> None:
    """Gloo waits for half an hour, and Python hears no signal meanwhile."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    press = threading.Timer(3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            with beside(2, stop):
                press.start()
                torch.distributed.barrier()
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []
    assert signal.set_wakeup_fd(-1) == -1


def test_who_waits_for_one_that_does_not_come_can_be_called_away(tmp_path: Path) -> None:
    def called() -> None:
        raise WorkFailed("enough")

    with pytest.raises(WorkFailed, match="enough"):
        with joined(Share(0, 2), tmp_path / "meeting", called):
            pass
    assert not torch.distributed.is_initialized()


def made(capsys: pytest.CaptureFixture[str], words: str) -> tuple[checkpoints.Stored, str]:
    """Train by the command line, in float32; the model, and what was said."""
    assert cli.main(f"train_model --precision 32 {words}".split()) == 0
    out, err = capsys.readouterr()
    return checkpoints.read(Path(out.splitlines()[-1]), CLASSIFIER), err


def numbers(table: Path) -> list[float]:
    """What a log holds."""
    words = ",".join(table.read_text().splitlines()[1:]).split(",")
    return [float(word) for word in words if word]


@pytest.mark.slow
@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_devices_give_the_weights_of_one_also_when_interrupted_and_fewer_before(
    place: Path, capsys: pytest.CaptureFixture[str], many_cores: None
) -> None:
    # The last batch of 800 images has 32, which three cannot share equally, nor two the 147 by which the epoch is
    # chosen.
    words = "--max_epochs 4 --batch_size 96 --sgd_momentum 0.9 --learning_rate 0.01"
    one, _ = made(capsys, f"{words} --models_dir one --results_dir one")
    words += " --models_dir several --results_dir several"
    code, err = train_until(place, "epoch 1/4", signal.SIGINT, *words.split(), "--devices", "2")
    assert code == 130, err
    assert err.splitlines()[-1].startswith("dpsnn: interrupted; call again")
    several, err = made(capsys, f"{words} --devices 3")
    assert err.count("resuming from") == err.count("epoch 4/4") == 1
    assert several.path.name == one.path.name and several.arguments == one.arguments
    assert several.record["devices"] in (3, [2, 3]) and "devices" not in one.record
    for name, weight in one.weights.items():
        torch.testing.assert_close(several.weights[name], weight, atol=5e-5, rtol=0, msg=name)
    # A log of each run, by the first of its devices, with the means over all.
    logs = [sorted(place.glob(f"{folder}/logs/*/*/metrics.csv")) for folder in ("one", "several")]
    assert [len(found) for found in logs] == [1, 2]
    # The signal is heard anywhere from amid the first epoch's rows on.
    before, after = map(numbers, logs[1])
    straight = numbers(logs[0][0])
    assert before
    assert before == pytest.approx(straight[: len(before)], abs=1e-4)
    assert after == pytest.approx(straight[-len(after) :], abs=1e-4)
