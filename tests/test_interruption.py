"""Ctrl-C and kill leave no half file, and a training called again ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from dpsnn import checkpoints, cli
from dpsnn.attacks import DecoderAttack, Knowledge
from dpsnn.checkpoints import ATTACKER, CLASSIFIER
from dpsnn.data import Digits
from dpsnn.networks.decoder import DECODERS
from dpsnn.training import _SaveProgress, fit

FileMaker = Callable[..., Path]


def train_until(place: Path, line: str, stop: signal.Signals, *options: str) -> tuple[int, str]:
    """Train in a process group of its own, which gets a signal once `line` was seen; its exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dpsnn.cli", "train_model", "--precision", "32", *options],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and so would this child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stderr is not None
    seen = ""
    for text in process.stderr:
        seen += text
        if line in text:
            os.killpg(process.pid, stop)
            break
    out, err = process.communicate()
    watchdog.cancel()
    assert out == ""
    return process.returncode, seen + err


def files(folder: Path) -> list[str]:
    """Names of all checkpoints and temporary files but the progress."""
    found = [p for p in folder.rglob("*") if p.suffix in (".ckpt", ".tmp")]
    return sorted(p.name for p in found if p.suffix == ".tmp" or p.parent.name != ".progress")


@pytest.mark.parametrize(
    "stop",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_command_exits_130_and_leaves_no_half_file(
    place: Path, stop: signal.Signals
) -> None:
    options = ("--max_epochs", "50", "--network", "lenet5")
    code, err = train_until(place, "epoch 1/50", stop, *options)
    assert code == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("dpsnn: interrupted; call again")
    assert files(place) == []
    assert len(list(place.glob("models/classifiers/.progress/digits_00noise_00nopeek_*.ckpt"))) == 1


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let Ctrl-C strike at the end of a given epoch."""
    save = _SaveProgress.on_train_epoch_end

    def arm(epoch: int) -> None:
        def strike(self: _SaveProgress, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            save(self, trainer, module)
            if trainer.current_epoch == epoch:
                raise KeyboardInterrupt

        monkeypatch.setattr(_SaveProgress, "on_train_epoch_end", strike)

    return arm


def outcome(path: Path, kind: str) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """Record without durations, and weights."""
    stored = checkpoints.read(path, kind)
    return {k: stored.record[k] for k in ("epoch", "best", "precision")}, stored.weights


ATTACK = "train_attacker --model digits_05noise_00nopeek"


@pytest.mark.parametrize(
    "command, kind, epoch",
    [
        ("train_model --noise_scale 0.5 --nopeek_weight 0.5", CLASSIFIER, 0),
        ("train_model --validator", CLASSIFIER, 1),
        pytest.param("train_model", CLASSIFIER, 0, marks=pytest.mark.slow),
        pytest.param("train_model --gaussian_std 0.5", CLASSIFIER, 1, marks=pytest.mark.slow),
        pytest.param(
            "train_model --dp_noise_multiplier 1 --repeatable_noise",
            CLASSIFIER,
            0,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "train_model --suppress_sparsity 0.9 --suppress_start_epoch 1 --suppress_end_epoch 2",
            CLASSIFIER,
            0,
            marks=pytest.mark.slow,
        ),
        pytest.param(f"{ATTACK} --learning_rate 0.003", ATTACKER, 0, marks=pytest.mark.slow),
        pytest.param(ATTACK, ATTACKER, 1, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    place: Path,
    few: None,
    capsys: pytest.CaptureFixture[str],
    interrupt_after: Callable[[int], None],
    classifier_file: FileMaker,
    command: str,
    kind: str,
    epoch: int,
) -> None:
    ends = []
    for models in ("straight", "interrupted"):
        classifier_file(place / models, noise_scale=0.5)
        before = files(place)
        words = [*command.split(), "--max_epochs", "2", "--precision", "32", "--batch_size", "16"]
        words += ["--models_dir", models]
        if models == "interrupted":
            interrupt_after(epoch)
            assert cli.main(words) == 130
            assert files(place) == before
            interrupt_after(-1)
            capsys.readouterr()
        assert cli.main(words) == 0
        out, err = capsys.readouterr()
        assert ("resuming from" in err) == (models == "interrupted")
        ends.append(outcome(place / out.splitlines()[-1], kind))
    (straight, weights), (resumed, resumed_weights) = ends
    assert resumed == straight
    assert resumed_weights.keys() == weights.keys()
    assert [name for name in weights if not torch.equal(weights[name], resumed_weights[name])] == []
    progress = list(place.glob("*/*/.progress/*"))
    assert {path.suffix for path in progress} == {".lock"}


@pytest.mark.slow
def test_what_only_prepares_an_attacker_goes_on_as_well(
    place: Path,
    few: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    classifier_file: FileMaker,
) -> None:
    """Step sizes are tried, the decoder is trained, and anew for twice the epochs; Ctrl-C strikes in each of these."""
    save, saved, strikes = _SaveProgress.on_train_epoch_end, list[Path](), list[int]()

    def strike(self: _SaveProgress, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        save(self, trainer, module)
        saved.append(self.path)
        if strikes and len(saved) == strikes[0]:
            strikes.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(_SaveProgress, "on_train_epoch_end", strike)
    monkeypatch.setattr("dpsnn.attacks.decoder.LEAST_STEPS", 12)
    words = [*ATTACK.split(), "--decoder", "linear", "--max_epochs", "2", "--doublings", "1"]
    words += ["--batch_size", "8"]
    epochs, ends = [], []
    for models in ("straight", "interrupted"):
        classifier_file(place / models, noise_scale=0.5)
        saved.clear()
        called = [*words, "--precision", "32", "--models_dir", models]
        if models == "interrupted":
            trials = len(epochs[0]) - 6
            assert trials > 1
            strikes += [1, trials + 1, trials + 3]
            assert [cli.main(called) for _ in range(3)] == [130] * 3
            capsys.readouterr()
        assert cli.main(called) == 0
        path = place / capsys.readouterr().out.splitlines()[-1]
        stored = checkpoints.read(path, ATTACKER)
        told = {name: stored.record[name] for name in ("epoch", "best", "learning_rate")}
        told |= {name: stored.record[name] for name in ("doubling", "epochs")}
        epochs.append([each.name for each in saved])
        ends.append((told, stored.weights))
    assert epochs[0] == epochs[1], "no epoch is done twice"
    (straight, weights), (resumed, resumed_weights) = ends
    assert resumed == straight
    assert [name for name in weights if not torch.equal(weights[name], resumed_weights[name])] == []
    assert {each.suffix for each in place.glob("*/*/.progress/*")} == {".lock"}


def test_what_is_drawn_after_a_training_does_not_depend_on_when_it_was_done(
    tmp_path: Path,
) -> None:
    own = Digits().tensors("surrogate")[0][:60]
    knowledge = Knowledge(lambda images: images.flatten(1), nn.Identity(), own)
    drawn = []
    for before in (1, 2):  # who goes on may have drawn other numbers before
        torch.manual_seed(before)
        attack = DecoderAttack(DECODERS["linear"]((784,), (1, 28, 28)), knowledge)
        how = {"monitor": "val/mse", "mode": "min", "precision": "32"}
        fit(attack, **how, max_epochs=1, seed=0, progress_file=tmp_path / "progress.ckpt")
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_the_progress_of_other_arguments_is_not_resumed(
    place: Path,
    few: None,
    capsys: pytest.CaptureFixture[str],
    interrupt_after: Callable[[int], None],
) -> None:
    words = ["train_model", "--precision", "32", "--max_epochs"]
    interrupt_after(0)
    assert cli.main([*words, "2"]) == 130
    interrupt_after(-1)
    capsys.readouterr()
    assert cli.main([*words, "1"]) == 0
    assert "resuming" not in capsys.readouterr().err
    # Nor is it lost: once the name is free it goes on.
    for finished in (place / "models/classifiers").glob("*.ckpt"):
        finished.unlink()
    assert cli.main([*words, "2"]) == 0
    assert "resuming from" in capsys.readouterr().err


def test_a_save_that_fails_can_be_repeated(
    place: Path, few: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    words = ["train_model", "--precision", "32", "--max_epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", full)
        assert cli.main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "dpsnn: No space left on device"
    assert files(place) == []
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert "resuming from" in err and "epoch 1/1" not in err
    assert files(place) == [Path(out.strip()).name]


@pytest.mark.slow
def test_a_killed_training_ends_like_an_uninterrupted_one(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--max_epochs", "6", "--noise_scale", "0.5"]
    code, err = train_until(place, "epoch 2/6", signal.SIGKILL, *options)
    assert (code, "Traceback" in err) == (-signal.SIGKILL, False)
    assert [name for name in files(place) if not name.endswith(".tmp")] == []
    ends = []
    for models in ("models", "straight"):
        command = ["train_model", "--precision", "32", *options, "--models_dir", models]
        assert cli.main(command) == 0
        out, err = capsys.readouterr()
        assert ("resuming from" in err) == (models == "models")
        ends.append(outcome(place / out.splitlines()[-1], CLASSIFIER))
    (resumed, resumed_weights), (straight, weights) = ends
    assert resumed == straight
    assert [name for name in weights if not torch.equal(weights[name], resumed_weights[name])] == []
