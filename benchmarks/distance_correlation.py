"""Distance correlation: against dcor, within a NoPeek step, and in memory.

    python benchmarks/distance_correlation.py

Prints ratios of medians from one run.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import dcor
import torch
from torch.nn import functional as F

from dpsnn.bench.records import begin
from dpsnn.building import build_classifier
from dpsnn.classifier import SplitClassifier
from dpsnn.memory import peak_bytes
from dpsnn.metrics import distance_correlation
from dpsnn.specs import ClassifierSpec
from dpsnn.training import resolve_precision


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Median time of a call, the first left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def step(
    classifier: SplitClassifier, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """One training step as Lightning would do it, in the default precision."""
    precision = resolve_precision("auto")
    classifier.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(classifier.parameters(), 1e-3, fused=True)

    def run() -> None:
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            smashed, penalty = classifier.defences.train_on(images, classifier.encode(images))
            loss = F.cross_entropy(classifier.network.server(smashed).float(), labels) + penalty
        loss.backward()
        optimiser.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--large", type=int, default=10_000, help="images at most [%(default)s]")
    parser.add_argument("--small", type=int, default=2048, help="beside dcor [%(default)s]")
    parser.add_argument("--rounds", type=int, default=7, help="of both steps [%(default)s]")
    options, results = begin(parser, quick={"large": 1000, "small": 256, "rounds": 1})
    torch.manual_seed(0)
    large = torch.rand(options.large, 784), torch.randn(options.large, 500, requires_grad=True)
    start = time.perf_counter()
    distance_correlation(*large).backward()
    taken, held = time.perf_counter() - start, peak_bytes() / 2**20
    told = f"distance correlation of {options.large:,} images, forward and backward"
    print(
        f"N = {options.large:,}, forward and backward: {taken:.1f} s, the whole process at most {held:.0f} MiB",
        flush=True,
    )
    results.add(told, taken, "s")
    results.add(f"{told}: the whole process at most", held, "MiB")

    images, labels = torch.rand(128, 1, 28, 28), torch.randint(0, 10, (128,))
    plain = step(build_classifier(ClassifierSpec()), images, labels)
    nopeek = step(build_classifier(ClassifierSpec(nopeek_weight=0.5)), images, labels)
    for action in (plain, nopeek):
        for _ in range(5):
            action()
    ratios = [seconds(nopeek, 10) / seconds(plain, 10) for _ in range(options.rounds)]
    print(f"NoPeek step / plain step at batch 128: {median(ratios):.3f}"
          f" ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)  # fmt: skip
    results.add(
        "training step with NoPeek, batch 128",
        1000 * seconds(nopeek, 10),
        "ms",
        "the step without it",
        [1 / ratio for ratio in ratios],
    )

    x, y = torch.rand(options.small, 784), torch.randn(options.small, 500, requires_grad=True)
    ours = seconds(lambda: distance_correlation(x, y).backward(), 5)
    a, b = x.numpy(), y.detach().numpy()
    theirs = seconds(lambda: dcor.distance_correlation(a, b), 2)
    print(f"N = {options.small:,}: dcor (forward only) {theirs:.2f} s / ours (forward and backward) {ours:.3f} s"
          f" = {theirs / ours:.0f}")  # fmt: skip
    results.add(
        f"distance correlation of {options.small:,} images, forward and backward",
        ours,
        "s",
        "dcor, forward only",
        theirs / ours,
    )
    results.write()


if __name__ == "__main__":
    main()
