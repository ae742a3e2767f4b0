"""The audit: how long each budget takes, how much of that is spent in the user's client, and in which attacks.

    python benchmarks/audit.py [--networks paper lenet5 resnet18] [--budget quick]

Networks start at random, which costs as much as trained ones, and are cut as in the table that is printed: the paper's
at its one cut, LeNet-5 and a ResNet-18 for 32 × 32 pixels at five. Pictures are random too, as many as a budget takes.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import dpsnn
from dpsnn.audit import run
from dpsnn.audit.plan import BUDGETS
from dpsnn.audit.wire import Wire
from dpsnn.bench.records import Results, begin
from dpsnn.networks.lenet5 import lenet5
from dpsnn.networks.titcombe import titcombe
from dpsnn.target import Client, Target


def _whole(network: Any) -> nn.Module:
    """Client and server in one piece, as somebody else would have it."""
    return nn.Sequential(*network.client, *network.server)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], list[str]]] = {
    "paper": (lambda: _whole(titcombe((1, 28, 28), 10)), (1, 28, 28), ["8"]),
    "lenet5": (lambda: _whole(lenet5((1, 28, 28), 10)), (1, 28, 28), []),
    "resnet18": (
        lambda: resnet18(num_classes=10),
        (3, 32, 32),
        ["maxpool", "layer1", "layer2", "layer3", "layer4"],
    ),
}
"""How it is made, what it takes, and where it is cut; nothing is everywhere that it makes sense."""


@dataclass
class Clock:
    """Seconds within a client."""

    forward: float = 0.0
    backward: float = 0.0
    begun: float = 0.0


class _Mark(torch.autograd.Function):
    """A tensor as it is; its gradient on its way starts the clock behind the client, and stops it before."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, clock: Clock, starts: bool) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Clock, bool], output: Tensor) -> None:
        ctx.clock, ctx.starts = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        now = time.perf_counter()
        if ctx.starts:
            ctx.clock.begun = now
        else:
            ctx.clock.backward += now - ctx.clock.begun
        return gradient, None, None


def timed(client: Client, clock: Clock) -> Client:
    """The same client, on the clock."""

    def answer(images: Tensor) -> Tensor:
        if images.requires_grad:
            images = _Mark.apply(images, clock, False)  # type: ignore[no-untyped-call]
        start = time.perf_counter()
        activation = client(images)
        clock.forward += time.perf_counter() - start
        if activation.requires_grad:
            activation = _Mark.apply(activation, clock, True)  # type: ignore[no-untyped-call]
        return activation

    return answer


def audited(results: Results, name: str, budget: str, noise: float, pictures: int | None) -> None:
    """Audit one network and print where the time went."""
    clock, wired = Clock(), run.wire_of

    def wire_of(target: Target, *rest: Any) -> Wire:
        return wired(replace(target, client=timed(target.client, clock)), *rest)

    torch.manual_seed(0)
    make, shape, cuts = NETWORKS[name]
    taken = BUDGETS[budget]
    count = pictures or min(60_000, max(2 * taken.own, 5 * taken.victims // 2))
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,))
    run.wire_of = wire_of
    start = time.perf_counter()
    try:
        result = dpsnn.audit(
            make().eval(), {"images": images, "labels": labels}, cuts=cuts or "all", budget=budget, noise_scale=noise
        )  # fmt: skip
    finally:
        run.wire_of = wired
    seconds = time.perf_counter() - start
    spent: Counter[str] = Counter()
    for cut in result.cuts:
        for row in cut["attacks"]:
            spent[row["label"]] += row["seconds"]
    inside = 100 * (clock.forward + clock.backward) / seconds
    print(
        f"{name:9} {budget:9} {len(result.cuts)} cuts  {seconds / 60:5.1f} min, {inside:.0f} % of it in the client"
        f" ({100 * clock.forward / seconds:.0f} forward, {100 * clock.backward / seconds:.0f} backward)"
    )
    for label, each in spent.most_common():
        print(f"    {label:24} {100 * each / seconds:3.0f} %")
    sys.stdout.flush()
    told = (
        f"audit of {name} at {len(result.cuts)} cut{'s'[: len(result.cuts) > 1]}, budget {budget}"
    )
    results.add(told, seconds, "s")
    results.add(f"{told}: share in the client", inside, "%")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--budget", default="quick", choices=[*BUDGETS])
    parser.add_argument("--noise", default=0.0, type=float, help="scale of Laplace noise [0]")
    parser.add_argument("--pictures", type=int, help="how many [as many as the budget takes]")
    options, results = begin(parser, quick={"networks": ["paper"], "pictures": 100})
    for name in options.networks:
        audited(results, name, options.budget, options.noise, options.pictures)
    results.write()


if __name__ == "__main__":
    main()
