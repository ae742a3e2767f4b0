"""Noise and lots of DP-SGD come from a secret that is left nowhere; a public seed must be asked for, and says so."""

import copy
import multiprocessing
import pickle
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from scipy.stats import kstest
from test_dp_sgd import QUIET, table
from test_dp_sgd_refusals import Images, images, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dpsnn import building, checkpoints
from dpsnn.averaging import Averaging
from dpsnn.batches import PoissonBatches, keyed_generator
from dpsnn.classifier import SplitClassifier
from dpsnn.cli import main
from dpsnn.data import Digits
from dpsnn.defences.dp_sgd import DPSGD, poisson
from dpsnn.defences.secret import Secret
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.networks import titcombe
from dpsnn.specs import AttackerSpec, ClassifierSpec, as_written, plain
from dpsnn.studies.faces.study import faces_experiments
from dpsnn.studies.omniglot.study import omniglot_experiments
from dpsnn.training import fit

TRAIN = "train_model --dataset digits --max_epochs 1 --batch_size 200 --dp_delta 1e-4".split()
NOISE = ["--dp_noise_multiplier", "1.5"]

# ---------------------------------------------------------------- the generator


def test_streams_differ_and_repeat() -> None:
    secret, zeros = Secret(bytes(range(32))), torch.zeros(50)
    streams = [(1, 0), (2, 0), (2, 1), (2, 0, 0), (2, 0, 1)]
    drawn = [secret.gaussian(zeros, 1.0, *stream) for stream in [*streams, (2, 0, 1)]]
    assert torch.equal(drawn[-1], drawn[-2])
    assert len({tuple(t.tolist()) for t in drawn}) == len(streams)
    assert len({secret.seed(1, epoch) for epoch in range(100)}) == 100
    assert Secret().key != Secret().key and len(Secret().key) == 32
    assert secret.key.hex() not in repr(secret)


def test_noise_from_a_secret_is_normal() -> None:
    callback = DPSGD(3.0, max_grad_norm=0.5)
    callback._secret = Secret(b"k" * 32)
    drawn = []
    for step in range(20):
        callback._drawn, callback._position = step, step % 3
        drawn.append(callback._noisy(torch.zeros(500), 1))
    assert kstest(torch.cat(drawn).numpy() / 1.5, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(torch.stack(drawn))[np.triu_indices(20, 1)]).max() < 0.2


def test_noise_of_a_large_tensor_is_that_of_its_blocks_whoever_draws_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpsnn.defences.secret.BLOCK", 1000)
    secret, zeros = Secret(bytes(32)), torch.zeros(7, 11, 10, 9)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(secret.gaussian(zeros, 1.5, 2, 3))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    slow = []
    for start in range(0, zeros.numel(), 1000):
        seed = int.from_bytes(secret.derive(32, 2, 3, start // 1000), "little")
        numbers = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, pool_size=8)))
        drawn = numbers.standard_normal(min(1000, zeros.numel() - start))
        slow.append(torch.from_numpy(1.5 * drawn))
    exact = torch.cat(slow).view(zeros.shape)
    assert torch.equal(found[0], exact.float())
    assert kstest(exact.flatten().numpy() / 1.5, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(torch.stack(slow[:-1]))[np.triu_indices(6, 1)]).max() < 0.15
    # Laid out otherwise, it is the same noise, laid out so.
    other = zeros.to(memory_format=torch.channels_last)
    drawn = secret.gaussian(other, 1.5, 2, 3)
    assert torch.equal(drawn, found[0]) and drawn.stride() == other.stride()
    assert secret.gaussian(zeros[:0], 1.0, 1).shape == (0, 11, 10, 9)
    assert secret.gaussian(zeros.double(), 1.0, 1).dtype == torch.float64
    # It is added to what is there, in any layout, all is divided, and then rounded.
    mean = torch.randn(zeros.shape)
    for given in (mean, mean.to(memory_format=torch.channels_last), mean.mT.contiguous().mT):
        kept = given.clone()
        noisy = secret.gaussian(given, 1.5, 2, 3, over=8)
        assert torch.equal(noisy, ((exact + mean) / 8).float()) and torch.equal(given, kept)


# ---------------------------------------------------------------- two trainings


def weights_of(callback: DPSGD) -> Tensor:
    torch.manual_seed(0)
    module = Images()
    train(module, images(), callback, max_epochs=2)
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def test_one_public_seed_makes_other_noise_each_time_unless_asked_for() -> None:
    known = weights_of(DPSGD(1.0, delta=1e-3, repeatable=True))
    assert torch.equal(known, weights_of(DPSGD(1.0, delta=1e-3, repeatable=True)))
    first, second = (weights_of(DPSGD(1.0, delta=1e-3)) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first, known, atol=1e-3)


def test_noise_of_two_steps_and_of_two_layers_is_independent() -> None:
    """A key that is used twice would let the difference of two updates cancel the noise."""
    callback = DPSGD(1.0)
    first = []
    for callback._drawn in range(3):
        for callback._position in range(3):
            first.append(tuple(callback._noisy(torch.zeros(4), 1).tolist()))
    assert len(set(first)) == 9


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_of_a_callback_draw_other_noise(copied: Callable[[DPSGD], DPSGD]) -> None:
    """One is made for each fold, say, or sent to each worker: their weights' difference would have no noise."""
    callback = DPSGD(1.0, delta=1e-3)
    first, second = copied(callback), copied(callback)
    assert first.lot_seed(0) != second.lot_seed(0) != callback.lot_seed(0)
    assert not torch.allclose(weights_of(first), weights_of(second), atol=1e-3)
    assert copied(first).history == first.history != []


def test_forked_processes_draw_other_noise() -> None:
    secret, fork = Secret(), multiprocessing.get_context("fork")
    heard: Any = fork.SimpleQueue()
    children = [fork.Process(target=lambda: heard.put(secret.derive(32, 1))) for _ in range(2)]
    for child in children:
        child.start()
    drawn = [heard.get() for _ in children]
    for child in children:
        child.join()
    assert len({*drawn, secret.derive(32, 1)}) == 3


def test_lots_of_a_second_training_are_others() -> None:
    """Of the same lots twice the noise averages out, at half the price."""
    callback = DPSGD(1.0, delta=1e-3)
    first = callback.lot_seed(0)
    assert first == callback.lot_seed(0)
    weights_of(callback)
    assert first != callback.lot_seed(0)


class Heard(pl.Callback):
    """All that a training tells of its lots."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.names: set[str] = set()

    def on_train_batch_end(self, trainer: pl.Trainer, _: Any, outputs: Any, *__: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.names |= outputs.keys() - {"loss"}
        self.names |= {*trainer.callback_metrics, *trainer.logged_metrics}


class Polyak(torch.optim.SGD):
    """Whose step depends on the loss."""

    told: list[float] = []

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.told.append(loss.item())
        return loss


class Book(Logger):
    """Writes down what it is told, whoever asks for it."""

    name = version = experiment = ""  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.told |= metrics.keys()

    def log_hyperparams(self, *_: Any) -> None:
        pass


class Telling(Averaging):
    def __init__(self, as_dictionary: bool) -> None:
        super().__init__()
        self.layer, self.as_dictionary = nn.Linear(4, 2), as_dictionary

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = F.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("loss", loss)
        self.log_dict({"same": loss})
        self.log_means(len(batch[0]), {"train/loss": loss})
        assert self.logger is not None
        self.logger.log_metrics({"directly": loss.item()})
        return {"loss": loss, "beside": loss.detach()} if self.as_dictionary else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return Polyak(self.parameters(), 0.1)


@pytest.mark.parametrize("as_dictionary", [False, True])
@pytest.mark.parametrize("physical_batch", [None, 7])
@pytest.mark.parametrize("repeatable", [False, True])
def test_values_of_the_examples_are_told_to_nobody(
    repeatable: bool, physical_batch: int | None, as_dictionary: bool
) -> None:
    """Whoever stops or steps by the loss tells of it; where noise is public anyway, all is as without DP-SGD."""
    heard, Polyak.told = Heard(), []
    module = Telling(as_dictionary)
    before = module.layer.weight.clone()
    private = DPSGD(1.0, delta=1e-3, repeatable=repeatable, physical_batch=physical_batch)
    book = Book()
    quiet = {**QUIET, "callbacks": [heard, private], "max_epochs": 2, "log_every_n_steps": 1}
    quiet["logger"] = book
    pl.Trainer(**quiet).fit(module, poisson(DataLoader(table(100), batch_size=20), seed=1))
    named = (heard.names | book.told) & {"loss", "same", "train/loss", "directly", "beside"}
    assert len(heard.losses) == len(Polyak.told) == 10
    assert not torch.equal(module.layer.weight, before)
    if repeatable:
        assert len(named) == 4 + as_dictionary and min(Polyak.told) > 0 and min(heard.losses) > 0
    else:
        assert not named and set(Polyak.told) == {0.0} == set(heard.losses)
    assert "log" not in vars(module) and not module._sums


def test_lots_are_drawn_from_the_secret() -> None:
    def lots(callback: DPSGD | None) -> list[list[float]]:
        data = Digits(batch_size=100, seed=0)
        data.poisson = True
        if callback:
            data.lot_seed = callback.lot_seed
        return [images.sum((1, 2, 3)).tolist() for images, _ in data.train_dataloader()]

    public = lots(None)
    assert public == lots(DPSGD(1.0, repeatable=True))
    secret = DPSGD(1.0)
    assert lots(secret) == lots(secret) != public
    assert lots(secret) != lots(DPSGD(1.0))
    assert secret.lot_seed(0) != secret.lot_seed(1)


def test_lots_are_none_of_those_that_a_seed_of_the_generator_gives() -> None:
    """Of a seed torch's takes 32 bits on a CPU: whoever tries all knows who took part, and nothing is amplified."""
    rows = torch.arange(1000)
    callback = DPSGD(1.0)
    callback._secret = Secret(bytes(32))
    key = callback.lot_seed(0)
    assert key is not None and len(key) == 32
    lots = [PoissonBatches(rows, batch_size=100, seed=k) for k in (key, key, key[:-1] + b"?")]
    first, again, other = ([lot.tolist() for (lot,) in each] for each in lots)
    assert first == again != other and first != [lot.tolist() for (lot,) in lots[0]]
    assert sum(len(lot) for lot in first) == pytest.approx(1000, abs=120)
    state = keyed_generator(key).get_state().numpy()[24 : 24 + 8 * 624].view(np.uint64)
    # The words of a seed follow from each other.
    before, behind = state[:-1], state[1:]
    follows = 1812433253 * (before ^ (before >> np.uint64(30))) + np.arange(1, 624, dtype=np.uint64)
    assert not np.any(behind == follows % 2**32) and len(set(state.tolist())) > 600
    drawn = torch.rand(100_000, generator=keyed_generator(key))
    assert kstest(drawn.numpy(), "uniform").pvalue > 1e-3
    assert not torch.equal(drawn, torch.rand(100_000, generator=keyed_generator(key, 1)))


def test_rare_lots_are_as_rare_as_they_are_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In single precision two of 2²⁴ numbers are below a rate of 1.1 of them: lots are nearly twice as large."""
    numbers = torch.arange(0, 4, 0.01, dtype=torch.float64) * 2**-24
    lots = PoissonBatches(torch.arange(400), batch_size=1, seed=bytes(32))
    lots.sample_rate = 1.105 * 2**-24

    def rand(count: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        assert count == len(numbers)
        return numbers if dtype == torch.float64 else (numbers * 2**24).floor().float() * 2**-24

    monkeypatch.setattr(torch, "rand", rand)
    (lot,) = next(iter(lots))
    assert len(lot) == 111


# ---------------------------------------------------------------- interruption


class Stops(pl.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("power")


def trained(progress: Path | None, key: bytes, *extra: pl.Callback) -> dict[str, Tensor]:
    torch.manual_seed(0)
    data = Digits(batch_size=200)
    callback = DPSGD(1.0, delta=1e-4, resumable=True)
    callback._secret = Secret(key)
    data.poisson, data.lot_seed = True, callback.lot_seed
    classifier = SplitClassifier(titcombe((1, 28, 28), 10))
    fit(classifier, data, monitor="val/accuracy", mode="last", max_epochs=4, seed=0, precision="32",
        callbacks=[callback, *extra], progress_file=progress)  # fmt: skip
    return classifier.state_dict()


@pytest.mark.slow
def test_a_resumed_training_equals_its_own_continuation(tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    with pytest.raises(RuntimeError, match="power"):
        trained(progress, b"a" * 32, Stops())
    # Another process has drawn another secret, but the file has the first.
    resumed = trained(progress, b"b" * 32)
    whole = trained(None, b"a" * 32)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_strangers_checkpoint_holds_no_secret() -> None:
    callback = DPSGD(1.0)
    assert "secret" not in callback.state_dict()
    other = DPSGD(1.0)
    other.load_state_dict(callback.state_dict())
    assert other._secret.key != callback._secret.key
    assert "secret" not in DPSGD(1.0, repeatable=True, resumable=True).state_dict()
    kept = DPSGD(1.0, resumable=True)
    other.load_state_dict(kept.state_dict())
    assert other._secret.key == kept._secret.key


# ---------------------------------------------------------------- the command line


@pytest.mark.slow
def test_two_commands_draw_different_noise_and_leave_no_secret(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[bytes] = []
    original = secrets.token_bytes

    def noted(length: int) -> bytes:
        keys.append(original(length))
        return keys[-1]

    monkeypatch.setattr("dpsnn.defences.secret.secrets.token_bytes", noted)
    stored = []
    for name in ("first", "second"):
        assert main([*TRAIN, *NOISE, "--models_dir", name]) == 0
        out, err = capsys.readouterr()
        stored.append(checkpoints.read(place / out.strip(), "classifier"))
        assert "repeatable" not in stored[-1].stem and "dp/epsilon " in err
    assert stored[0].digest != stored[1].digest
    assert stored[0].stem.split("_epoch")[0] == stored[1].stem.split("_epoch")[0]
    assert len(keys) == 2
    for file in [p for p in place.rglob("*") if p.is_file()]:
        content = file.read_bytes()
        assert not any(key in content or key.hex().encode() in content for key in keys), file


@pytest.mark.slow
def test_repeatable_noise_marks_name_checkpoint_and_table(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = []
    for name in ("models", "again"):
        assert main([*TRAIN, *NOISE, "--repeatable_noise", "--models_dir", name]) == 0
        out, err = capsys.readouterr()
        stored.append(checkpoints.read(place / out.strip(), "classifier"))
        assert "dp/epsilon_if_seed_were_secret" in err
    assert stored[0].digest == stored[1].digest
    assert stored[0].stem.startswith(
        "digits_00noise_00nopeek_15dpsgd_repeatable_00001delta_1epochs_200batch_epoch="
    )
    assert stored[0].arguments["repeatable_noise"] is True
    assert main(["evaluate_models"]) == 0
    (row,) = tables.read(tables.models_table("results"))
    assert row["DPRepeatable"] == "True" and float(row["DPEpsilon"]) > 0

    # A row that does not say so is made anew.
    table = tables.models_table("results")
    tables.write(table, [{k: v for k, v in row.items() if k != "DPRepeatable"}])
    capsys.readouterr()
    assert main(["evaluate_models"]) == 0
    assert "evaluating" in capsys.readouterr().err
    assert tables.read(table) == [row]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--repeatable_noise"], "repeatable_noise says nothing without DP-SGD"),
        ([*NOISE, "--batch_size", "1000"], "batch_size is 1000, but there are 1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = [*TRAIN, *options]
    if "1000" in options:
        count = len(Digits().tensors("train")[0])
        given[-1] = str(count + 1)
        message = f"batch_size is {count + 1}, but there are {count} training images"
    assert main(given) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and "Traceback" not in err


# ---------------------------------------------------------------- what older files say, and studies


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"dataset": "digits"}, False),
        ({"dp_noise_multiplier": 0.0, "dp_target_epsilon": 0.0}, False),
        ({"dp_noise_multiplier": 1.5}, True),
        ({"dp_noise_multiplier": 0.0, "dp_target_epsilon": 3.0}, True),
        ({"dp_noise_multiplier": 1.5, "federated_mode": "secure"}, False),
        ({"dp_noise_multiplier": 1.5, "repeatable_noise": False}, False),
    ],
)
def test_an_older_file_was_trained_as_was_usual_then(
    arguments: dict[str, Any], expected: bool
) -> None:
    assert as_written(arguments)["repeatable_noise"] is expected


def test_an_older_file_is_read_and_found_as_repeatable(tmp_path: Path) -> None:
    spec = ClassifierSpec(dp_noise_multiplier=1.5, repeatable_noise=True)
    older = plain(spec)
    del older["repeatable_noise"]
    path = tmp_path / "digits_00noise_00nopeek_15dpsgd_epoch=00.ckpt"
    content = {
        "dpsnn": "classifier",
        "format": 1,
        "arguments": older,
        "record": {"epoch": 0, "precision": "32-true"},
        "state_dict": building.build_classifier(spec).state_dict(),
    }
    torch.save(content, path)
    assert checkpoints.load_classifier(path)[1] == spec
    name = checkpoints.classifier_name(spec)
    assert "repeatable" in name
    assert checkpoints.already(tmp_path, name, "classifier", plain(spec)) == path
    secret = replace(spec, repeatable_noise=False)
    with pytest.raises(UsageError, match="repeatable_noise=True, not False"):
        checkpoints.already(
            tmp_path, checkpoints.classifier_name(secret), "classifier", plain(secret)
        )


def studies() -> list[ClassifierSpec]:
    base = ClassifierSpec()
    experiments = [
        *omniglot_experiments(replace(base, dataset="omniglot"), AttackerSpec()),
        *faces_experiments(replace(base, dataset="faces"), AttackerSpec()),
    ]
    return [experiment.classifier for experiment in experiments]


def test_studies_on_public_data_can_be_repeated() -> None:
    specs = studies()
    assert any(spec.private for spec in specs)
    assert all(spec.repeatable_noise == spec.private for spec in specs)


def test_repeatable_noise_is_refused_without_dp_sgd() -> None:
    made: Callable[..., ClassifierSpec] = ClassifierSpec
    with pytest.raises(UsageError, match="says nothing without DP-SGD"):
        made(repeatable_noise=True)
