"""DP-SGD: examples per second of every way to clip the gradients of single examples, and of training without privacy.

    python benchmarks/dp_sgd.py

Prints ratios of medians from one run, in float32. Training without privacy and our own way have the memory layout that
every training of ours has, and the former the fused optimiser as well: nothing slower is a baseline.
"""

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable
from statistics import median

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional as F

from dpsnn.bench.records import Results, begin
from dpsnn.defences.per_example import PerExampleGradients
from dpsnn.defences.secret import Secret
from dpsnn.memory import keep_memory, peak_bytes
from dpsnn.networks import mobile, titcombe
from dpsnn.training import gradients_laid_out

NOISE, CLIP = 1.0, 1.0

Step = Callable[[Tensor, Tensor], None]


def _laid_out(network: nn.Module) -> contextlib.ExitStack:
    """Lay a network out as `fit` does, for as long as what this returns is kept."""
    network.to(memory_format=torch.channels_last)
    layout = contextlib.ExitStack()
    layout.enter_context(gradients_laid_out(network))
    return layout


def non_private(network: nn.Module) -> Step:
    optimiser = torch.optim.SGD(network.parameters(), 1e-3, fused=True)
    layout = _laid_out(network)

    def step(images: Tensor, labels: Tensor, kept: contextlib.ExitStack = layout) -> None:
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()

    return step


def ours(network: nn.Module) -> Step:
    optimiser = torch.optim.SGD(network.parameters(), 1e-3)
    layout = _laid_out(network)
    watch = PerExampleGradients(network)
    watch.attach()
    secret = Secret()

    def step(images: Tensor, labels: Tensor, kept: contextlib.ExitStack = layout) -> None:
        F.cross_entropy(network(images), labels).backward()
        weights = (CLIP / (watch.norms() + 1e-6)).clamp(max=1)
        for number, (parameter, total) in enumerate(watch.weighted_sum(weights).items()):
            parameter.grad = secret.gaussian(total, NOISE * CLIP, number, over=len(images))
        watch.clear()
        optimiser.step()

    return step


def opacus_hooks(network: nn.Module, mode: str = "hooks") -> Step:
    watched = GradSampleModule(network, force_functorch=mode == "functorch")
    optimiser = DPOptimizer(
        torch.optim.SGD(watched.parameters(), 1e-3),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        expected_batch_size=128,
    )

    def step(images: Tensor, labels: Tensor) -> None:
        optimiser.zero_grad()
        F.cross_entropy(watched(images), labels).backward()
        optimiser.step()

    return step


def opacus_functorch(network: nn.Module) -> Step:
    return opacus_hooks(network, "functorch")


def opacus_ghost(network: nn.Module) -> Step:
    watched = GradSampleModuleFastGradientClipping(network, max_grad_norm=CLIP)
    optimiser = DPOptimizerFastGradientClipping(
        torch.optim.SGD(watched.parameters(), 1e-3),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        expected_batch_size=128,
    )
    loss = DPLossFastGradientClipping(watched, optimiser, nn.CrossEntropyLoss())

    def step(images: Tensor, labels: Tensor) -> None:
        optimiser.zero_grad()
        loss(watched(images), labels).backward()
        optimiser.step()

    return step


def loop(network: nn.Module) -> Step:
    optimiser = torch.optim.SGD(network.parameters(), 1e-3)
    parameters = list(network.parameters())

    def step(images: Tensor, labels: Tensor) -> None:
        totals = [torch.zeros_like(p) for p in parameters]
        for image, label in zip(images.split(1), labels.split(1)):
            gradients = torch.autograd.grad(F.cross_entropy(network(image), label), parameters)
            norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            for total, gradient in zip(totals, gradients):
                total += gradient * min(1.0, CLIP / (norm.item() + 1e-6))
        for parameter, total in zip(parameters, totals):
            noise = torch.empty_like(parameter).normal_(0, NOISE * CLIP)
            parameter.grad = (total + noise) / len(images)
        optimiser.step()

    return step


WAYS: dict[str, Callable[[nn.Module], Step]] = {
    "non-private": non_private,
    "ours": ours,
    "opacus hooks": opacus_hooks,
    "opacus functorch": opacus_functorch,
    "opacus ghost clipping": opacus_ghost,
    "loop over single examples": loop,
}


BASELINES = {"non-private": "training without privacy"}
"""What a way is called in the table, where its name says too little there."""

STUDIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int, int]] = {
    "MNIST": (lambda: titcombe((1, 28, 28), 10), (1, 28, 28), 10, 128),
    "Omniglot": (lambda: mobile((1, 105, 105), 20, norm="group"), (1, 105, 105), 20, 32),
}
"""Network, image shape, classes, batch size."""


def throughput(
    step: Step, shape: tuple[int, int, int], classes: int, batch: int, steps: int = 5
) -> float:
    """Examples per second, the median of so many steps after one."""
    images, labels = torch.rand(batch, *shape), torch.randint(0, classes, (batch,))
    times = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        step(images, labels)
        times.append(time.perf_counter() - start)
    return batch / median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", nargs="+", default=[*STUDIES], choices=[*STUDIES])
    parser.add_argument("--lot", type=int, default=1024, help="images of a large lot [%(default)s]")
    parser.add_argument(
        "--rounds", type=int, default=3, help="all ways, so many times [%(default)s]"
    )
    parser.add_argument("--steps", type=int, default=5, help="of each, after one [%(default)s]")
    options, results = begin(
        parser, quick={"studies": ["MNIST"], "lot": 128, "rounds": 1, "steps": 1}
    )
    warnings.simplefilter("ignore")
    keep_memory()  # as every command does

    # First, while nothing else has claimed memory.
    lot = titcombe((1, 28, 28), 10).train()
    throughput(ours(lot), (1, 28, 28), 10, options.lot)
    print(
        f"lot of {options.lot:,} MNIST images: the whole process at most {peak_bytes() / 2**20:.0f} MiB"
    )
    results.add(
        f"private step of {options.lot:,} MNIST images: the whole process at most",
        peak_bytes() / 2**20,
        "MiB",
    )
    for study in options.studies:
        compare(results, study, options.rounds, options.steps)
    results.write()


def compare(results: Results, study: str, rounds: int, steps: int) -> None:
    """All ways in turn, so many times; ratios are of one turn."""
    build, shape, classes, batch = STUDIES[study]
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, make in WAYS.items():
            torch.manual_seed(0)
            speeds[way].append(throughput(make(build().train()), shape, classes, batch, steps))
    fast = speeds["ours"]
    for way, found in speeds.items():
        without = [free / this for free, this in zip(speeds["non-private"], found)]
        against = [our / this for our, this in zip(fast, found)]
        print(
            f"{study} network, batch {batch}, {way}: {median(found):.0f} examples/s,"
            f" non-private / this = {median(without):.2f}, ours / this = {median(against):.2f}"
            f" ({min(against):.2f} to {max(against):.2f})",
            flush=True,
        )
        if way != "ours":
            told = f"private training, {study} network, batch {batch}, float32"
            results.add(told, fast, "examples/s", BASELINES.get(way, way), against)


if __name__ == "__main__":
    main()
