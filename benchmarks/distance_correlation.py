"""Distance correlation: against dcor, within a NoPeek step, and in memory.

    python benchmarks/distance_correlation.py

Prints ratios of medians from one run.
"""

import resource
import sys
import time
from collections.abc import Callable
from statistics import median

import dcor
import torch
from torch.nn import functional as F

from dpsnn.building import build_classifier
from dpsnn.classifier import SplitClassifier
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


def peak_mebibytes() -> float:
    """Largest memory that this process has held."""
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


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
    torch.manual_seed(0)
    large = torch.rand(10_000, 784), torch.randn(10_000, 500, requires_grad=True)
    start = time.perf_counter()
    distance_correlation(*large).backward()
    print(f"N = 10,000, forward and backward: {time.perf_counter() - start:.1f} s, the whole process at most"
          f" {peak_mebibytes():.0f} MiB", flush=True)  # fmt: skip

    images, labels = torch.rand(128, 1, 28, 28), torch.randint(0, 10, (128,))
    plain = step(build_classifier(ClassifierSpec()), images, labels)
    nopeek = step(build_classifier(ClassifierSpec(nopeek_weight=0.5)), images, labels)
    for action in (plain, nopeek):
        for _ in range(5):
            action()
    ratios = [seconds(nopeek, 10) / seconds(plain, 10) for _ in range(7)]
    print(f"NoPeek step / plain step at batch 128: {median(ratios):.3f}"
          f" ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)  # fmt: skip

    x, y = torch.rand(2048, 784), torch.randn(2048, 500, requires_grad=True)
    ours = seconds(lambda: distance_correlation(x, y).backward(), 5)
    a, b = x.numpy(), y.detach().numpy()
    theirs = seconds(lambda: dcor.distance_correlation(a, b), 2)
    print(f"N = 2,048: dcor (forward only) {theirs:.2f} s / ours (forward and backward) {ours:.3f} s"
          f" = {theirs / ours:.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
