"""Training throughput of dpsnn against a plain Lightning script for the same network.

    python benchmarks/training.py [--epochs 1] [--dataset mnist]

The plain script is what a tutorial would write: float32, torchvision's data set with ToTensor and Normalize, a
DataLoader with two workers, Adam. Both train the undefended network on the same images with the same batch size and
step size; accuracy is measured on the test images. Prints one ratio; times of one run alone mean little.
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dpsnn.building import build_classifier
from dpsnn.data import DATASETS, ImageDataModule
from dpsnn.specs import ClassifierSpec
from dpsnn.training import fit


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist", choices=sorted(DATASETS))
    parser.add_argument("--data_dir", default="data", type=Path)
    parser.add_argument("--epochs", default=1, type=int)
    parser.add_argument("--rounds", default=3, type=int, help="both scripts in turn, so many times")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    spec = ClassifierSpec(dataset=options.dataset, max_epochs=options.epochs)
    data = DATASETS[options.dataset](options.data_dir, spec.batch_size, spec.seed)
    data.setup()
    ratios = []
    for _ in range(options.rounds):
        theirs, fast = tutorial(data, spec), ours(data, spec)
        ratios.append(fast[0] / theirs[0])
        print(f"plain Lightning script  {theirs[0]:7.0f} images/s  test {theirs[1]:.2f} %")
        print(f"dpsnn                   {fast[0]:7.0f} images/s  test {fast[1]:.2f} %", flush=True)
    print(f"ratio dpsnn / plain script: median {sorted(ratios)[len(ratios) // 2]:.2f} of {len(ratios)}"
          f" ({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
