"""What the commands `dpsnn secure …` do: one for each role, and one that starts all three workers on this machine.

What needs the extra is imported when a command runs, so that all others work without it.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from dpsnn import checkpoints
from dpsnn.atomic import scratch, staged
from dpsnn.batches import to_unit
from dpsnn.checkpoints import CLASSIFIER
from dpsnn.data import DATASETS
from dpsnn.data.files import read_array
from dpsnn.data.pictures import read_picture
from dpsnn.errors import UsageError
from dpsnn.secure import config, require
from dpsnn.secure.messages import ClusterFailed
from dpsnn.specs import replace
from dpsnn.tensors import Images


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the workers


def worker(options: argparse.Namespace) -> NoReturn:
    require()
    config.read(options.config)
    if not 0 <= options.rank < config.PARTIES:
        raise UsageError(f"rank is {options.rank}; it must be 0, 1 or 2")
    number = _count(options.num_requests, 0, "num_requests")
    words = [options.config, str(options.rank), str(number)]
    # In place of this process, which has loaded what a worker does not need.
    os.execv(sys.executable, [sys.executable, "-m", "dpsnn.secure.process", *words])


def serve(options: argparse.Namespace) -> None:
    """Run all three workers on this machine until they stop, and share a model first where one is named."""
    require()
    from dpsnn.secure.cluster import LocalCluster

    cluster = _cluster(options)
    if not cluster.local:
        raise UsageError(
            "this cluster is on several machines; start `dpsnn secure worker --rank R` on each"
        )
    number = _count(options.num_requests, 0, "num_requests")
    with (
        scratch("dpsnn-secure") as folder,
        LocalCluster(cluster, folder, number) as running,
    ):
        ports = ", ".join(str(address.port) for address in cluster.workers)
        limit = f" for {number} requests" if number else ""
        note(f"serving on ports {ports}{limit}; `dpsnn secure stop` or Ctrl-C ends it")
        if options.model:
            # Joined by a sign, so that a name which begins with a dash is not taken for an option.
            words = [f"--model={options.model}", f"--models_dir={options.models_dir}"]
            words += [f"--config={running.config}", *(["--split"] if options.split else [])]
            command = [sys.executable, "-m", "dpsnn.cli", "secure", "share", *words]
            if code := subprocess.run(command, check=False).returncode:
                raise SystemExit(code)
        if running.wait():
            raise ClusterFailed(
                "a worker went away, and with it its shares; start again with `dpsnn secure serve --model NAME`"
            )


def stop(options: argparse.Namespace) -> None:
    require()
    from dpsnn.secure import owner

    owner.stop(config.read(options.config))


def keys(options: argparse.Namespace) -> Path:
    require()
    from dpsnn.secure.keys import make

    return make(config.read(options.config), options.client)


# ---------------------------------------------------------------- the owner


def share(options: argparse.Namespace) -> Path:
    """Share a classifier; prints its file, or that of the client half which belongs to it."""
    require()
    from dpsnn.secure import device, owner

    cluster = config.read(options.config)
    folder = checkpoints.classifiers_dir(options.models_dir)
    path = checkpoints.find(folder, options.model, CLASSIFIER)
    classifier, _, _ = checkpoints.load_classifier(path)
    written, pairing = path, ""
    if options.split:
        converted = owner.server_half(classifier.network)
        written, pairing = device.export(path, options.models_dir)
    else:
        converted = owner.whole(classifier.network)
    owner.share(cluster, converted, pairing)
    note(f"shared {path.stem} among {config.PARTIES} workers; this process may leave now")
    return written


def status(options: argparse.Namespace) -> None:
    require()
    from dpsnn.secure import owner

    for rank, state in enumerate(owner.status(config.read(options.config))):
        told = "" if state.engine_bytes < 0 else f", {state.engine_bytes / 1e6:.1f} MB sent"
        print(
            f"worker {rank}: {state.served} requests, {state.engine_seconds:.1f} s of computing{told},"
            f" at most {state.peak_bytes / 1024**3:.2f} GiB of memory"
        )


# ---------------------------------------------------------------- the client


def query(options: argparse.Namespace) -> Path:
    """Classify images that no worker sees, and write a table of the scores."""
    require()
    from dpsnn.secure.client import Client
    from dpsnn.secure.device import Device

    cluster = _cluster(options)
    count = _count(options.count, 1, "count")
    device = Device(Path(options.device)) if options.device else None
    output = Path(options.output)
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file in it with --output")
    with Client(cluster, options.client) as client:
        public = client.model
        if (public.content == "smashed") != (device is not None):
            raise UsageError(
                "the first half of this model runs on the device; name its file with --device"
                if device is None
                else "the workers have a whole model; leave out --device"
            )
        if device and device.pairing != public.pairing:
            raise UsageError(
                f"{options.device} belongs to another model; ask the owner for its file"
            )
        shape = device.image_shape if device else public.input_shape
        images, labels = images_from(options.images, options.data_dir, tuple(shape), count)
        values = device.transmit(images) if device else images.numpy()
        batch = min(_count(options.batch_size, 1, "batch_size"), public.max_batch)
        checkpoints.ensure_writable(output.parent)
        answers = progress(client.all_scores(values, batch), -(-len(values) // batch))
        scores = np.concatenate(list(answers))
    _write(output, scores, labels)
    for position, row in enumerate(scores[:10]):
        actual = "" if labels is None else f"   actual {labels[position]}"
        print(f"image {position}: predicted {row.argmax()}{actual}")
    if labels is not None:
        right = int((scores.argmax(1) == np.array(labels)).sum())
        print(f"{right} of {len(labels)} right")
    return output


def progress(steps: Iterator[Any], total: int) -> Iterator[Any]:
    """A bar on standard error where there is more than one step."""
    if total == 1:
        return steps
    console = Console(stderr=True)
    return iter(track(steps, "encrypted", total, console=console, transient=True))


def images_from(
    source: str, data_dir: str | Path, shape: tuple[int, ...], count: int
) -> tuple[Images, list[int] | None]:
    """The first images of a file, or test images of a data set with their labels.

    Args:
        source: Name of a data set, an array (`.npy`, `(N, C, H, W)` of bytes or of values in [0, 1]) or a picture.
        data_dir: Where data sets are.
        shape: That the model takes, `(C, H, W)`.
        count: How many at most.

    Raises:
        UsageError: If there is no such file, or its images are of another shape or range.
    """
    if source in DATASETS:
        pixels, labels = DATASETS[source](data_dir).tensors("test")
        images, known = to_unit(pixels[:count]), labels[:count].tolist()
    else:
        images, known = _from_file(Path(source), shape, count), None
    if images.dim() != 4 or tuple(images.shape[1:]) != shape or not len(images):
        raise UsageError(
            f"{source} has images of shape {tuple(images.shape[1:])}; the model takes {shape}"
        )
    if not (images.isfinite().all() and 0 <= images.min() and images.max() <= 1):
        raise UsageError(f"{source} has values outside [0, 1]; scale them")
    return images, known


def _from_file(path: Path, shape: tuple[int, ...], count: int) -> Images:
    if not path.exists():
        raise UsageError(f"{path} is neither a file nor a data set; choose from {sorted(DATASETS)}")
    if path.suffix == ".npy":
        return to_unit(torch.from_numpy(read_array(path, count))).float()
    planes = torch.from_numpy(read_picture(path, 1 if shape[0] == 1 else 3).copy())
    return to_unit(planes.unsqueeze(0) if planes.dim() == 2 else planes.permute(2, 0, 1))[None]


def _write(path: Path, scores: np.ndarray, labels: list[int] | None) -> None:
    with staged(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [f"Score{number}" for number in range(scores.shape[1])]
        writer.writerow(["Image", "Predicted", *(["Actual"] if labels else []), *names])
        for position, row in enumerate(scores):
            actual = [labels[position]] if labels else []
            writer.writerow([position, row.argmax(), *actual, *(f"{v:.6g}" for v in row)])


def _cluster(options: argparse.Namespace) -> config.Cluster:
    """The cluster, with the time-out of the command line where one is given."""
    cluster = config.read(options.config)
    return cluster if options.timeout is None else replace(cluster, timeout=options.timeout)


def _count(value: int, least: int, name: str) -> int:
    if not least <= value <= 2**31 - 1:
        raise UsageError(f"{name} is {value}; it must be a whole number, {least} or greater")
    return value
