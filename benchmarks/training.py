"""Training throughput of dpsnn against a plain Lightning script, a bare loop, and what the machine can multiply.

    python benchmarks/training.py [--epochs 3] [--dataset mnist] [--members 4]

The plain script is what a tutorial would write: float32, torchvision's data set with ToTensor and Normalize, a
DataLoader with two workers, Adam. Both train the undefended network on the same images with the same batch size and
step size; accuracy is measured on the test images. The bare loop is what remains without dpsnn and without Lightning:
the same layers in the same order, precision, memory layout, resident bytes, fused Adam and validation after every
epoch, written by hand. Operations are those of the network, forward and backward, as torch counts them; what the
machine can do is told by a large matrix product in the same precision, and by the same in float32, as the plain script
has it: the faster the one by the other, the farther behind is the script. All of it in turn, so many times; times of
one run alone mean little.

Last comes a grid: several such classifiers, with different seeds and all their epochs, side by side in as many
processes of one thread as there are cores, as `./main.sh all --jobs` trains them. Its seconds are those from nothing to
the last checkpoint, and its products are measured before and after it.
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from dpsnn.batches import to_unit
from dpsnn.bench import grids
from dpsnn.bench.records import begin
from dpsnn.building import build_classifier
from dpsnn.cores import cores
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.specs import ClassifierSpec, replace
from dpsnn.training import HALF, device, fit, gradients_laid_out, resolve_precision


class Pictures(Dataset[tuple[Tensor, int]]):
    """torchvision's MNIST, item by item: a PIL image through ToTensor and Normalize."""

    def __init__(self, data: ImageDataModule, role: str) -> None:
        pixels, labels = data.tensors(role)
        self.pixels: np.ndarray = pixels[:, 0].numpy()
        self.labels = labels.tolist()
        normalise = transforms.Normalize((data.mean,), (data.std,))
        self.transform = transforms.Compose([transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[index], mode="L")
        return self.transform(image), self.labels[index]


class Tutorial(pl.LightningModule):
    """The published network in one piece."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(9216, 500), nn.Tanh(), nn.Linear(500, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.layers(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.rate)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent right."""
    network.eval()
    predicted = torch.cat([network(block).argmax(1) for block in images.split(500)])
    return 100 * (predicted == labels).float().mean().item()


def tutorial(data: ImageDataModule, spec: ClassifierSpec) -> tuple[float, float]:
    """Images per second and test accuracy of the plain script."""
    torch.manual_seed(spec.seed)
    loader = DataLoader(Pictures(data, "train"), spec.batch_size, shuffle=True, num_workers=2)
    model = Tutorial(spec.learning_rate)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(max_epochs=spec.max_epochs, default_root_dir=folder, enable_progress_bar=False,
                             enable_model_summary=False, enable_checkpointing=False, logger=False)  # fmt: skip
        start = time.perf_counter()
        trainer.fit(model, loader)
        seconds = time.perf_counter() - start
    pixels, labels = data.tensors("test")
    images = (pixels / 255 - data.mean) / data.std
    return spec.max_epochs * len(data.rows("train")) / seconds, accuracy(
        model.layers, images, labels
    )


def ours(data: ImageDataModule, spec: ClassifierSpec) -> tuple[float, float]:
    """Images per second and test accuracy of dpsnn, validation after every epoch included."""
    classifier = build_classifier(spec)
    start = time.perf_counter()
    fit(
        classifier,
        data,
        monitor="val/accuracy",
        mode="max",
        max_epochs=spec.max_epochs,
        seed=spec.seed,
    )
    seconds = time.perf_counter() - start
    pixels, labels = data.tensors("test")
    return spec.max_epochs * len(data.rows("train")) / seconds, accuracy(
        classifier, pixels / 255, labels
    )


def bare(data: ImageDataModule, spec: ClassifierSpec) -> tuple[float, float]:
    """Images per second and test accuracy of a loop by hand that does what dpsnn does, and nothing besides."""
    torch.manual_seed(spec.seed)
    where = device()
    half = resolve_precision(spec.precision) == HALF
    network = build_classifier(spec).network
    layers = nn.Sequential(network.client, network.server).to(where)
    layers.to(memory_format=torch.channels_last)
    (pixels, labels), (held, truth) = (data.tensors(r, where) for r in ("train", "validation"))
    steps = spec.max_epochs * -(-len(labels) // spec.batch_size)
    optimiser = torch.optim.Adam(layers.parameters(), spec.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def answers(images: Tensor) -> Tensor:
        with torch.autocast(where.type, torch.bfloat16, enabled=half):
            scores: Tensor = layers(to_unit(images))
        return scores.float()

    start = time.perf_counter()
    for _ in range(spec.max_epochs):
        with gradients_laid_out(layers):
            for rows in torch.randperm(len(labels)).to(where).split(spec.batch_size):
                optimiser.zero_grad()
                F.cross_entropy(answers(pixels[rows]), labels[rows]).backward()
                optimiser.step()
                schedule.step()
        with torch.no_grad():
            blocks = zip(held.split(spec.batch_size), truth.split(spec.batch_size))
            right = sum((answers(block).argmax(1) == own).sum() for block, own in blocks)
        float(right)  # waits for a GPU
    seconds = time.perf_counter() - start
    images, own = data.tensors("test")
    return spec.max_epochs * len(labels) / seconds, accuracy(layers.cpu(), to_unit(images), own)


def operations(data: ImageDataModule, spec: ClassifierSpec) -> float:
    """Floating-point operations of a training image: its part of a step, both ways, and of the validation."""
    layers = Tutorial(spec.learning_rate).layers
    images, labels = data.tensors("train")
    batch = to_unit(images[: spec.batch_size])
    with FlopCounterMode(display=False) as step:
        F.cross_entropy(layers(batch), labels[: len(batch)]).backward()
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        layers(batch)
    share = len(data.rows("validation")) / len(data.rows("train"))
    total = step.get_total_flops() + share * forward.get_total_flops()
    return total / len(batch)


def product(side: int, precision: str, times: int = 3) -> float:
    """Operations per second of a product of two square matrices, the median of a few after one."""
    kind = torch.bfloat16 if resolve_precision(precision) == HALF else torch.float32
    one, other = (torch.randn(side, side, device=device(), dtype=kind) for _ in range(2))
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        float((one @ other)[0, 0])  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds[1:])


def grid(data: ImageDataModule, spec: ClassifierSpec, members: int, epochs: int) -> float:
    """Training images per second of all members together, the start of their processes included."""
    specs = [replace(spec, seed=seed, max_epochs=epochs) for seed in range(members)]
    seconds = grids.seconds(specs, cores(), Path(data.data_dir))
    return members * epochs * len(data.rows("train")) / seconds


def told(name: str, speed: float, right: float) -> None:
    print(f"{name:22}  {speed:7.0f} images/s  test {right:.2f} %", flush=True)


def spread(ratios: list[float]) -> str:
    """Their median and range."""
    return f"median {median(ratios):.2f} of {len(ratios)} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist", choices=sorted(DATASETS))
    parser.add_argument("--data_dir", default="data", type=Path)
    parser.add_argument(
        "--epochs", default=3, type=int, help="of which the first holds the start [%(default)s]"
    )
    parser.add_argument(
        "--rounds", default=2, type=int, help="all ways in turn, so many times [%(default)s]"
    )
    parser.add_argument("--side", default=4096, type=int, help="of the matrices [%(default)s]")
    parser.add_argument(
        "--members", default=2 * cores(), type=int, help="of the grid; 0: none [%(default)s]"
    )
    parser.add_argument("--grid_epochs", default=10, type=int, help="of each [%(default)s]")
    options, results = begin(
        parser,
        quick={
            "dataset": "digits",
            "epochs": 1,
            "rounds": 1,
            "side": 512,
            "members": 2,
            "grid_epochs": 1,
        },
    )
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    spec = ClassifierSpec(dataset=options.dataset, max_epochs=options.epochs)
    data = DATASETS[options.dataset](options.data_dir, spec.batch_size, spec.seed)
    data.setup()
    ways = {"plain Lightning script": tutorial, "dpsnn": ours, "bare loop": bare}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    reached, possible, plainly = [], [], []
    work = operations(data, spec)
    for _ in range(options.rounds):
        for name, way in ways.items():
            speed, right = way(data, spec)
            speeds[name].append(speed)
            told(name, speed, right)
        possible.append(product(options.side, spec.precision))
        plainly.append(product(options.side, "32"))
        reached.append(work * speeds["dpsnn"][-1])
    fast = speeds.pop("dpsnn")
    what = f"training on {options.dataset}, {options.epochs} epoch{'s'[: options.epochs > 1]}"
    for name, slow in speeds.items():
        ratios = [our / their for our, their in zip(fast, slow)]
        print(f"ratio dpsnn / {name}: {spread(ratios)}")
        results.add(what, fast, "images/s", name, ratios)
    shares = [have / could for have, could in zip(reached, possible)]
    large = f"product of {options.side} × {options.side} matrices"
    print(
        f"{work / 1e6:.1f} million operations an image: {median(reached) / 1e9:.0f} GFLOP/s, the {large}"
        f" {median(possible) / 1e9:.0f} GFLOP/s: {spread(shares)}"
    )
    results.add(what, [each / 1e9 for each in reached], "GFLOP/s", large, shares)
    gains = [could / plain for could, plain in zip(possible, plainly)]
    print(f"ratio {large} / the same in float32, as the plain script has them: {spread(gains)}")
    results.add(large, [each / 1e9 for each in possible], "GFLOP/s", "the same in float32", gains)
    if options.members:
        before = product(options.side, spec.precision)
        speed = work * grid(data, spec, options.members, options.grid_epochs)
        could = [before, product(options.side, spec.precision)]
        share = [speed / each for each in could]
        length = f"{options.grid_epochs} epoch{'s'[: options.grid_epochs > 1]}"
        what = f"grid of {options.members}, {length}, a thread each"
        print(f"{what}: {speed / 1e9:.0f} GFLOP/s, the {large} {median(could) / 1e9:.0f} GFLOP/s")
        print(f"  {spread(share)}")
        results.add(what, speed / 1e9, "GFLOP/s", large, share, runs=1)
    results.write()


if __name__ == "__main__":
    main()
