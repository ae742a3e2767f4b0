"""White-box inversion: all images at once against image by image, at the fc1 cut of LeNet-5.

    python benchmarks/feature_inversion.py

Prints images times steps per second of both from one run, their ratio, and what 1,000 images by 1,000 steps take.
"""

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from dpsnn.attacks.feature_inversion import (
    AT_ONCE,
    RATES,
    descend,
    squared_norm,
    total_variation,
)
from dpsnn.bench.records import begin
from dpsnn.metrics import relative_misfit
from dpsnn.networks import lenet5
from dpsnn.training import keep_memory

VARIATION, SQUARE = 0.1, 0.1


def seconds(images: Tensor, steps: int, at_once: int) -> float:
    """Time to invert all images, so many at once."""
    client = lenet5((1, 28, 28), 10, cut="fc1").client.eval().requires_grad_(False)
    client = client.to(memory_format=torch.channels_last)
    centre = images.mean(0)
    with torch.no_grad():
        smashed = client(images)
    start = time.perf_counter()
    for block in smashed.split(at_once):
        heard = block.unsqueeze(0)

        def objective(x: Tensor) -> Tensor:
            prior = VARIATION * total_variation(x) + SQUARE * squared_norm(x, centre)
            return relative_misfit(client(x), heard) + prior

        first = centre.expand(len(block), -1, -1, -1).clone()
        descend(objective, first, steps, RATES["sigmoid"])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Batched inversion against one image at a time.")
    parser.add_argument("--images", type=int, default=1000, help="images at once [%(default)s]")
    parser.add_argument("--alone", type=int, default=10, help="images one by one [%(default)s]")
    parser.add_argument("--steps", type=int, default=20, help="steps of each [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts [%(default)s]")
    options, results = begin(parser, quick={"images": 50, "alone": 2, "steps": 3, "repeats": 2})

    keep_memory()  # as every command does
    torch.manual_seed(0)
    images = torch.rand(options.images, 1, 28, 28)
    ratios: list[float] = []
    together: list[float] = []
    for _ in range(options.repeats):
        batched = seconds(images, options.steps, AT_ONCE) / len(images) / options.steps
        alone = seconds(images[: options.alone], options.steps, 1) / options.alone / options.steps
        ratios.append(alone / batched)
        together.append(batched)
        print(
            f"{1 / batched:.0f} images·steps/s in blocks of {AT_ONCE}, {1 / alone:.0f} one by one:"
            f" ratio {ratios[-1]:.1f}",
            flush=True,
        )
    print(
        f"median ratio {median(ratios):.1f} on {torch.get_num_threads()} threads;"
        f" 1,000 images by 1,000 steps: {1e6 * median(together):.0f} s"
    )
    told = f"white-box inversion at fc1 of LeNet-5, in blocks of {AT_ONCE}"
    speeds = [1 / each for each in together]
    results.add(told, speeds, "images·steps/s", "one by one", ratios)
    results.write()


if __name__ == "__main__":
    main()
