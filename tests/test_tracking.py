"""W&B: an offline run holds what was logged; CSV logs are written always."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from dpsnn.cli import main
from dpsnn.evaluation import tables
from dpsnn.evaluation.report import plt, save_figure
from dpsnn.runner.tracking import has_account, summarise

BLOCK = 32 * 1024


def records(path: Path) -> list[wandb_internal_pb2.Record]:
    """All that a finished run wrote; W&B's own process may write the end of it a while after `finish` returned."""
    for _ in range(600):
        found = list(written(path))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def written(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read a .wandb file: a 7-byte head, then LevelDB's log format, each entry a protocol buffer."""
    content, position, parts = path.read_bytes(), 7, b""
    assert content[:4] in (b":W&B", b"")
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        if position + 7 + length > len(content):
            return  # being written
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and an attacker trained with --wandb."""
    place = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr("dpsnn.attacks.decoder.LEAST_STEPS", 1)
        short = ["--max_epochs", "1", "--wandb", "--batch_size", "200"]
        assert main(["train_model", "--noise_scale", "0.5", *short]) == 0
        attacker = ["train_attacker", "--model", "digits_05noise_00nopeek"]
        assert main([*attacker, "--learning_rate", "0.003", *short]) == 0
    return place / "results"


def items(run: Path) -> dict[str, object]:
    """Everything that a run logged in its history and its summary; nested keys are joined by slashes."""
    found: dict[str, object] = {}
    for record in records(run):
        for part in (*record.history.item, *record.summary.update):
            found[part.key or "/".join(part.nested_key)] = json.loads(part.value_json)
    return found


def test_offline_runs_hold_metrics_configuration_and_a_picture(tracked: Path) -> None:
    # By their tags: names of folders begin with the second, which both may share.
    runs = {
        "attacker" in next(r.run.tags for r in records(path) if r.HasField("run")): path
        for path in (tracked / "wandb").glob("offline-run-*/*.wandb")
    }
    classifier, attacker = runs[False], runs[True]
    logged = items(classifier)
    assert 0 <= float(str(logged["val/accuracy"])) <= 1 and "train/task_loss" in logged
    assert logged["checkpoint"] == "digits_05noise_00nopeek_1epochs_200batch_epoch=00.ckpt"
    logged = items(attacker)
    assert float(str(logged["val/mse"])) > 0
    assert logged["reconstructions/_type"] == "image-file"
    stored = attacker.parent / "files" / str(logged["reconstructions/path"])
    assert stored.read_bytes().startswith(b"\x89PNG")
    (run,) = [r.run for r in records(attacker) if r.HasField("run")][:1]
    assert {"attacker", "adaptive", "digits"} <= set(run.tags) and run.project == "dpsnn"
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["target"]["noise_scale"] == 0.5


def test_a_group_is_summed_up_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        {"Model": "a", "Dataset": "digits", "TestAcc": 97.5},
        {"Model": "b", "Dataset": "mnist", "TestAcc": 99.0},
    ]
    tables.upsert(tables.models_table(tmp_path), models, tables.CLASSIFIER_KEY)
    picture = save_figure(plt.figure(), tmp_path / "figures" / "pareto_digits.png")
    summarise("all", "digits", tmp_path, [picture])
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    (run,) = [r.run for r in records(path) if r.HasField("run")][:1]
    assert (run.display_name, run.run_group) == ("all_digits_summary", "all")
    logged, files = items(path), path.parent / "files"
    table = json.loads((files / str(logged["model_performances/path"])).read_text())
    assert table["columns"] == ["Model", "Dataset", "TestAcc"]
    assert table["data"] == [["a", "digits", "97.5"]]
    shown = files / str(logged["pareto_digits/path"])
    assert shown.read_bytes() == picture.read_bytes()


def test_csv_logs_are_always_written(tracked: Path) -> None:
    found = (tracked / "logs").glob("*/version_0/metrics.csv")
    logs = sorted(path.parent.parent.name for path in found)
    assert logs == [
        "digits_05noise_00nopeek_1epochs_200batch",
        "digits_attacker_1epochs_0003rate_200batch_model<digits_05noise_00nopeek_1epochs_200batch_epoch=00>",
    ]


def test_accounts_are_found_by_key_or_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not has_account()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_account()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_account()
