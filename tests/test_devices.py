"""One training on several devices: the batches of one, the weights of one, and what cannot be shared."""

import os
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from test_interruption import files, train_until
from torch import nn

from dpsnn import checkpoints, cli
from dpsnn.batches import Share, TensorBatches, derived_seed
from dpsnn.checkpoints import CLASSIFIER
from dpsnn.ddp import FairMean
from dpsnn.errors import UsageError, WorkFailed
from dpsnn.runner.beside import beside, check_there, refuse_unshared
from dpsnn.training import _SeedEpochs

CORES = os.cpu_count()


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


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
    from dpsnn.defences import DefenceModule

    class Adversary(DefenceModule):
        def optimiser(self) -> torch.optim.Optimizer | None:
            return None

    with pytest.raises(UsageError, match="Adversary learns .* leave out --devices"):
        refuse_unshared(nn.Sequential(Adversary()))


# ---------------------------------------------------------------- processes


def end(share: Share) -> None:
    """What another device does here."""
    os._exit(3)


@pytest.mark.slow
def test_a_device_that_is_gone_is_named() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(WorkFailed, match="^device 1 failed: its process ended with exit code 3$"):
        with beside(2, end):
            torch.distributed.barrier()
    assert torch.get_num_threads() == threads
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
@pytest.mark.skipif((CORES or 1) < 2, reason="needs two cores")
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
    assert several.record["devices"] == 3 and "devices" not in one.record
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
