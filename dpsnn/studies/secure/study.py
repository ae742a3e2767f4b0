"""Encrypted inference measured: is the answer that of the network in clear, how long does it take, what does it cost?

The network of the RStudio AI blog's post, whole, and that of Titcombe et al. in mixed mode: its client in clear on the
device, with noise on what leaves it, its server on secret shares.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from dpsnn import building, checkpoints
from dpsnn.atomic import scratch
from dpsnn.batches import to_unit
from dpsnn.data import DATASETS
from dpsnn.errors import UsageError, choose
from dpsnn.evaluation import tables
from dpsnn.evaluation.report import one_per_class, reconstruction_figure, save_figure
from dpsnn.parts import plugin_words
from dpsnn.runner.beforehand import check_file, check_places
from dpsnn.runner.group import group_specs, seeded
from dpsnn.runner.progress import note
from dpsnn.runner.run import command
from dpsnn.runner.train import Folders, train_classifier
from dpsnn.secure import require
from dpsnn.secure.config import PORT, local_cluster
from dpsnn.secure.messages import ClusterFailed
from dpsnn.specs import ClassifierSpec, replace
from dpsnn.tensors import Images

IMAGES = 200
"""Compared with plaintext."""
SINGLE = 3
"""Requests of one image each, as the post serves them."""
BATCH = 32
MIXED_NOISE = 0.5
KEY = ("Model", "Mode")


def secure_experiments(base: ClassifierSpec) -> list[ClassifierSpec]:
    """Encrypted inference: the blog's network on secret shares, and the paper's with its client half in clear.

    The former trains in small batches, as the post does; the latter is that of the group `noise`, where it was trained
    already.
    """
    return [
        replace(base, network="keydana", batch_size=32, learning_rate=3e-3),
        replace(base, noise_scale=MIXED_NOISE),
    ]


def is_split(spec: ClassifierSpec) -> bool:
    """Whether the client half runs in clear on the device: where a defence is, which acts there."""
    return bool(spec.noise_scale)


def secure_table(results_dir: str | Path) -> Path:
    return tables.models_table(results_dir).with_name("secure.csv")


def secure_figure(results_dir: str | Path, dataset: str) -> Path:
    return Path(results_dir) / "figures" / f"secure_{dataset}.png"


def dry_run(specs: Sequence[ClassifierSpec], folders: Folders) -> list[str]:
    """The commands of the group, in order."""
    lines = []
    for spec in specs:
        name = checkpoints.classifier_name(spec)
        split = ["--split"] if is_split(spec) else []
        lines.append(command("train_model", spec, folders))
        served = [*plugin_words(), "--num_requests", str(SINGLE + -(-IMAGES // BATCH))]
        served += ["--model", name, *split]
        lines.append(shlex.join(["dpsnn", "secure", "serve", *served]))
        device = f"{folders.models_dir}/devices/{name}_epoch=XX_device.ckpt"
        asked = [*plugin_words(), "--images", spec.dataset]
        asked += ["--device", device] if split else []
        lines.append(shlex.join(["dpsnn", "secure", "query", *asked]))
    return lines


def secure(specs: Sequence[ClassifierSpec], folders: Folders) -> Path:
    """Train what is missing, serve it, ask, compare, and bring table and figure up to date.

    Raises:
        UsageError: If the extra is missing, data cannot be reached, or a port is taken.
        ClusterFailed: If a worker goes away.
    """
    require()
    table = secure_table(folders.results_dir)
    check_places(folders, [(table, KEY)])
    for spec in specs:
        data = choose(DATASETS, spec.dataset, "dataset")(folders.data_dir)
        for role in ("train", "validation", "test"):
            data.rows(role)
        check_file(secure_figure(folders.results_dir, spec.dataset))
        building.build_classifier(spec)
    for spec in specs:
        path = train_classifier(spec, folders, "secure")
        row, figure = measure(path, spec, folders)
        name = checkpoints.classifier_name(spec)
        earlier = {
            known["Model"]
            for known in tables.read(table, KEY)
            if known["Model"].rsplit("_epoch=", 1)[0] == name
        }
        # An earlier training may have ended in another epoch.
        tables.drop(table, "Model", earlier - {str(row["Model"])})
        tables.upsert(table, [row], KEY)
        print(tables.as_text([{"What": name, "Value": value} for name, value in row.items()], TEXT))
        if not is_split(spec):
            drawn = secure_figure(folders.results_dir, spec.dataset)
            print(save_figure(figure, drawn))
    return table


TEXT = {"What": "", "Value": "encrypted inference"}


def measure(path: Path, spec: ClassifierSpec, folders: Folders) -> tuple[dict[str, Any], Figure]:
    """One network on a cluster of three processes that stops by itself after the last request.

    Returns:
        The row of the table, and the figure of what workers see.
    """
    # These need the extra.
    from dpsnn.secure import owner, shares
    from dpsnn.secure.client import Client
    from dpsnn.secure.cluster import LocalCluster
    from dpsnn.secure.device import Device

    classifier, _, stored = checkpoints.load_classifier(path)
    pixels, labels = DATASETS[spec.dataset](folders.data_dir).tensors("test")
    images, labels = to_unit(pixels[:IMAGES]), labels[:IMAGES]
    count, split = len(images), is_split(spec)
    # What the whole run asks, so that the cluster stops by itself.
    requests = SINGLE + -(-count // BATCH)
    network = classifier.network
    whole = nn.Sequential(network.client, network.server).eval()
    cluster = local_cluster(PORT)
    with (
        scratch("dpsnn-secure") as folder,
        LocalCluster(cluster, folder, requests) as running,
    ):
        start = time.monotonic()
        given = _share(path, split, folders, running.config)
        sharing = time.monotonic() - start
        values = Device(given).transmit(images) if split else images.numpy()
        with torch.no_grad():
            plain = (network.server.eval() if split else whole)(torch.from_numpy(values)).numpy()
        note(f"asking for {count} images, {SINGLE} of them alone, the rest {BATCH} at a time")
        with Client(cluster) as client:
            idle = owner.status(cluster)
            alone = [_timed(client.scores, values[n : n + 1]) for n in range(SINGLE)]
            after = owner.status(cluster)
            single_traffic = sum(client.traffic) / SINGLE
            batches: list[tuple[Float[np.ndarray, "b classes"], float]] = []
            states = after
            for begin in range(0, count, BATCH):
                if begin + BATCH >= count:
                    states = owner.status(cluster)
                batches.append(_timed(client.scores, values[begin : begin + BATCH]))
        stopped = running.wait()
    encrypted = np.concatenate([scores for scores, _ in batches])
    first = np.concatenate([scores for scores, _ in alone])
    if not np.isfinite(plain).all():
        raise UsageError(f"{stored.stem} answers with values that are not finite; train it again")
    error = float(np.max([np.abs(encrypted - plain).max(), np.abs(first - plain[:SINGLE]).max()]))
    truth, guessed, wanted = labels.numpy(), encrypted.argmax(1), plain.argmax(1)
    parts = shares.split(values[:1])
    full = [seconds for scores, seconds in batches if len(scores) == BATCH]
    row = {
        "Model": stored.stem,
        "Mode": "split" if split else "whole",
        "Dataset": spec.dataset,
        "Network": spec.network,
        "NoiseScale": spec.noise_scale,
        "Images": count,
        "Agreement": 100 * float((guessed == wanted).mean()),
        "AgreementFloor": 100 * float((guessed == np.roll(wanted, 1)).mean()),
        "MaxScoreError": error,
        "Accuracy": 100 * float((guessed == truth).mean()),
        "PlainAccuracy": 100 * float((wanted == truth).mean()),
        "SecondsFirst": alone[0][1],
        "SecondsSingle": median(seconds for _, seconds in alone[1:]),
        "SecondsBatch": median(full) if full else None,
        "Batch": BATCH,
        "SecondsPlainBatch": _timed(_plain(network.server if split else whole), values[:BATCH])[1],
        "SecondsShare": sharing,
        "WorkersMB": _megabytes(idle, after, SINGLE),
        "ClientMB": single_traffic / 1e6,
        "PeakGiB": max(state.peak_bytes for state in states) / 1024**3,
        "ShareUniformP": min(uniformity(part) for part in parts),
        "StoppedByItself": stopped == 0,
        "Seed": spec.seed,
        "Digest": stored.digest,
    }
    return row, worker_view(images, labels, spec.dataset)


def _share(path: Path, split: bool, folders: Folders, config: Path) -> Path:
    """The owner, in a process of its own that is gone before the first request."""
    words = ["--model", str(path), "--models_dir", folders.models_dir, "--config", str(config)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dpsnn.cli",
            "secure",
            "share",
            *words,
            *(["--split"] if split else []),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise ClusterFailed(f"{path.stem} could not be shared; the line above says why")
    return Path(done.stdout.splitlines()[-1])


def _plain(module: nn.Module) -> Any:
    def compute(values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n classes"]:
        with torch.no_grad():
            return module(torch.from_numpy(values)).numpy()

    return compute


def _timed(compute: Any, values: Float[np.ndarray, "n ..."]) -> tuple[Any, float]:
    start = time.monotonic()
    made = compute(values)
    return made, time.monotonic() - start


def _megabytes(before: Sequence[Any], after: Sequence[Any], requests: int) -> float | None:
    """What all workers' engines sent to one another for one request; None where the system does not count it."""
    if any(state.engine_bytes < 0 for state in (*before, *after)):
        return None
    sent = sum(state.engine_bytes for state in after) - sum(s.engine_bytes for s in before)
    return sent / requests / 1e6


def uniformity(part: bytes) -> float:
    """p of a chi-square test that all 256 values of a byte are equally frequent in a share."""
    counts = np.bincount(np.frombuffer(part, np.uint8), minlength=256)
    return float(stats.chisquare(counts).pvalue)


def worker_view(images: Images, labels: torch.Tensor, title: str) -> Figure:
    """One picture of each class, the share of it that each worker gets, and what all three make together."""
    from dpsnn.secure import shares

    shown = images[one_per_class(labels)]
    parts = shares.split(shown.numpy())
    rows = []
    for rank, part in enumerate(parts):
        # The upper eight bits of the first of the two numbers that a worker holds for each pixel.
        words = np.frombuffer(part, np.uint64).reshape(-1, 2)[:, 0] >> np.uint64(56)
        seen = torch.from_numpy(words.astype(np.float32) / 255).reshape(shown.shape)
        rows.append((f"worker {rank} sees", seen))
    together = torch.from_numpy(shares.join(parts, shown.shape).astype(np.float32))
    rows.append(("all three together", together))
    return reconstruction_figure(shown, rows, f"{title}: images and their shares")


def run_secure(options: argparse.Namespace) -> Path | None:
    """`dpsnn secure`."""
    base, _, _, folders = group_specs(options)
    specs = [spec for each in seeded(options, base) for spec in secure_experiments(each)]
    if options.dry_run:
        print(*dry_run(specs, folders), sep="\n")
        return None
    return secure(specs, folders)
