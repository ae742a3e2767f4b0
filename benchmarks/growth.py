"""How cost grows with images, width, own images of attackers, attackers, and workers: a power law through a few points.

    python benchmarks/growth.py [--series images width ...] [--scale 4] [--out results/bench]

Images are random, as time does not depend on what they show. Every size is measured several times, all sizes in turn,
after one measurement that does not count; each takes seconds at most, and --scale makes all sizes so many times as
large. Prints a line for every fit, and draws growth.png.
"""

import argparse
import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from dpsnn.attacks.mixture import LikelihoodMixture, Mixture
from dpsnn.attacks.ridge import RidgeRegression
from dpsnn.batches import to_unit
from dpsnn.bench import grids
from dpsnn.bench.growth import Growth, draw, line, power_law
from dpsnn.bench.machine import machine
from dpsnn.bench.records import begin
from dpsnn.building import build_classifier
from dpsnn.data.base import ImageDataModule, Pool, contiguous_roles
from dpsnn.defences import DefenceList
from dpsnn.defences.noise import LaplaceNoise
from dpsnn.folders import Folders
from dpsnn.runner.train import train_attacker, train_classifier
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.target import Target
from dpsnn.training import HALF, Fitted, device, fit, keep_memory, resolve_precision

SHAPE, CLASSES, BATCH = (1, 28, 28), 10, 128

Take = Callable[[int], float]
"""A size → seconds."""


class Made(ImageDataModule):
    """So many random images to train on, and a batch to validate on."""

    image_shape, num_classes, mean, std = SHAPE, CLASSES, 0.5, 0.29

    def __init__(self, count: int) -> None:
        super().__init__(batch_size=BATCH)
        self.count = count

    def load(self) -> Pool:
        total = self.count + BATCH
        return Pool(_pixels(total), torch.arange(total) % CLASSES, "random images")

    def roles(self, pool: Pool) -> dict[str, range]:
        return contiguous_roles(len(pool.pixels), train=self.count, validation=BATCH)


def _pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8)


def _since(start: float) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def images(count: int) -> float:
    """An epoch of the paper's network."""
    data = Made(count)
    data.setup()
    classifier = build_classifier(ClassifierSpec(dataset="mnist"))
    start = time.perf_counter()
    fit(classifier, data, monitor="val/accuracy", mode="last", max_epochs=1, seed=0)
    return _since(start)


def width(channels: int) -> float:
    """Ten training steps of a network like the paper's, all of whose layers are as wide in proportion."""
    layers = nn.Sequential(
        nn.Conv2d(1, channels // 2, 3), nn.ReLU(), nn.Conv2d(channels // 2, channels, 3), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(144 * channels, 8 * channels), nn.Tanh(), nn.Linear(8 * channels, CLASSES),
    )  # fmt: skip
    where = device()
    layers.to(where).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(layers.parameters(), 1e-3, fused=True)
    batch = to_unit(_pixels(BATCH)).to(where)
    labels = torch.arange(BATCH, device=where) % CLASSES
    half = resolve_precision("auto") == HALF
    start = time.perf_counter()
    for step in range(11):
        if step == 1:
            start = time.perf_counter()
        optimiser.zero_grad()
        with torch.autocast(where.type, torch.bfloat16, enabled=half):
            scores = layers(batch)
        F.cross_entropy(scores.float(), labels).backward()
        optimiser.step()
    return _since(start)


def _wire(noise: bool) -> Target:
    """A linear client of 500 values, with Laplace noise on the wire or without."""
    client = nn.Sequential(nn.Flatten(), nn.Linear(784, 500), nn.Tanh())
    return Target.of_client(client, SHAPE, DefenceList([LaplaceNoise(5.0)] if noise else []))


def mixture(own: int) -> float:
    """The posterior means of 500 victims."""
    target = _wire(noise=True)
    known = target.knowledge(_pixels(own), LikelihoodMixture.needs)
    heard = target.transmit(target.encode(to_unit(_pixels(500))))
    start = time.perf_counter()
    Mixture(known).infer(heard)  # type: ignore[arg-type]
    return _since(start)


def ridge(own: int) -> float:
    """The best linear map, its penalty chosen."""

    def learn(module: object, **options: object) -> Fitted:
        raise AssertionError("it is found in closed form")

    method = RidgeRegression()
    found = method.build(_wire(noise=False).knowledge(_pixels(own), method.needs), 1, 0)
    start = time.perf_counter()
    found.prepare(learn)
    return _since(start)


def attackers(count: int) -> float:
    """So many linear attackers of one classifier on `digits`, from their seeds to their checkpoints."""
    with tempfile.TemporaryDirectory() as place:
        folders = Folders(models_dir=f"{place}/models", results_dir=f"{place}/results")
        model = train_classifier(ClassifierSpec(dataset="digits", max_epochs=1), folders)
        start = time.perf_counter()
        for seed in range(count):
            train_attacker(AttackerSpec(attack="ridge", model=model.stem, seed=seed), folders)
        return _since(start)


def workers(count: int) -> float:
    """Twice as many classifiers on `digits` as there are workers at most, by so many, each of one thread."""
    specs = [ClassifierSpec(dataset="digits", max_epochs=10, seed=s) for s in range(2 * _most())]
    return grids.seconds(specs, count)


def _most() -> int:
    """Workers: as many as there are cores, or less, and two at least."""
    return min(8, max(2, machine()["cores"]))


def _doubled(first: int, count: int) -> list[int]:
    return [first * 2**each for each in range(count)]


SERIES: dict[str, tuple[Take, str, list[int]]] = {
    "images": (images, "training images", _doubled(1000, 4)),
    "width": (width, "channels of the second convolution", _doubled(16, 4)),
    "mixture": (mixture, "own images", _doubled(1000, 4)),
    "ridge": (ridge, "own images", _doubled(1000, 4)),
    "attackers": (attackers, "attackers", _doubled(1, 4)),
    "workers": (workers, "worker processes", []),
}
"""What takes the time, what its size is, and the sizes; of workers up to as many as there are cores."""

COUNTED = ("attackers", "workers")
"""What --scale leaves as it is."""


def measured(take: Take, sizes: Sequence[int], repeats: int) -> Iterator[tuple[int, float]]:
    """Sizes and seconds, all sizes in turn, the first left out."""
    for number, size in enumerate([sizes[0], *repeats * [*sizes]]):
        torch.manual_seed(0)
        # What a training prints of itself.
        with contextlib.redirect_stderr(io.StringIO()):
            seconds = take(size)
        if number:
            yield size, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--series", nargs="+", default=[*SERIES], choices=[*SERIES])
    parser.add_argument("--scale", type=int, default=1, help="of all sizes [%(default)s]")
    parser.add_argument("--points", type=int, default=4, help="sizes at most [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="of every size [%(default)s]")
    parser.add_argument("--out", type=Path, help="folder of growth.png [results/bench]")
    options, results = begin(parser, quick={"points": 2, "repeats": 1, "series": [*SERIES][:5]})
    keep_memory()  # as every command does
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    growths: dict[str, Growth] = {}
    for name in options.series:
        take, of, sizes = SERIES[name]
        sizes = sizes or [each for each in _doubled(1, 4) if each <= _most()]
        scale = 1 if name in COUNTED else options.scale
        points = [
            *measured(take, [scale * each for each in sizes[: options.points]], options.repeats)
        ]
        counts, seconds = (list(column) for column in zip(*points))
        growths[name] = growth = Growth(counts, seconds, of)
        print(line(name, growth), flush=True)
        law = power_law(growth)
        what = f"{name}: exponent of {of}, {counts[0]:,} to {max(counts):,}"
        results.add(what, law.exponent, "", interval=law.interval, runs=len(counts))
        results.add(f"{name}: {max(counts):,} {of}", law.at(max(counts)), "s")
    print(draw(growths, (options.out or results.folder) / "growth.png"))
    results.write()


if __name__ == "__main__":
    main()
