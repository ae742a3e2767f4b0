"""Several classifiers trained as one, their weights stacked, against one after another.

    python benchmarks/stacking.py [--members 2 6] [--networks titcombe lenet5]

Members of a grid share the architecture and the images, so their steps could be one: a convolution of as many groups as
there are members, a batch of matrix products. Two ways to do that: `torch.func.stack_module_state` with `vmap`, and
layers written for it, which keep channels last. Each step goes forward, backward, and through fused Adam; all have the
same batch and precision as training has, and keep memory and the layout of gradients as it does. Ratios say how many
times as fast the stacked step is as the members' steps.
"""

import argparse
import contextlib
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from dpsnn.bench.records import begin
from dpsnn.memory import keep_memory
from dpsnn.networks import NETWORKS
from dpsnn.training import HALF, device, gradients_laid_out, resolve_precision

CLASSES = 10

Step = Callable[[], None]


class Together(nn.Module):
    """A linear layer of each member: `(M, N, in)` → `(M, N, out)`."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.T for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias for layer in layers])[:, None])

    def forward(self, rows: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, rows, self.weight)


class Apart(nn.Flatten):
    """Feature maps with the channels of all members, `(N, M C, H, W)`, to the rows of each, `(M, N, C H W)`."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members

    def forward(self, input: Tensor) -> Tensor:  # named as torch names it
        return input.reshape(len(input), self.members, -1).transpose(0, 1)


def grouped(members: list[nn.Sequential]) -> nn.Sequential:
    """One network for all members: images `(N, C, H, W)` → logits `(M, N, classes)`.

    The first convolution sees the images once; those after it have a group for each member.
    """
    made: list[nn.Module] = []
    shared = True
    for layers in zip(*members):
        layer = layers[0]
        if isinstance(layer, nn.Conv2d):
            inputs = layer.in_channels * (1 if shared else len(members))
            outputs, groups = layer.out_channels * len(members), 1 if shared else len(members)
            side = layer.kernel_size[0]  # kernels are square, steps are of one, and edges stay bare
            conv = nn.Conv2d(inputs, outputs, side, groups=groups)
            conv = conv.to(layer.weight.device)
            conv.weight.data.copy_(torch.cat([each.weight for each in layers]))
            assert conv.bias is not None
            conv.bias.data.copy_(torch.cat([each.bias for each in layers]))
            made.append(conv)
            shared = False
        elif isinstance(layer, nn.Linear):
            made.append(Together([*layers]))
        else:
            made.append(Apart(len(members)) if isinstance(layer, nn.Flatten) else layer)
    return nn.Sequential(*made)


def flat(name: str) -> nn.Sequential:
    """A registered network for digits, as one sequence of layers."""
    made = NETWORKS[name]((1, 28, 28), CLASSES)
    return nn.Sequential(*made.client.children(), *made.server.children())


def steps(
    name: str, count: int, batch: int, half: bool, laid_out: contextlib.ExitStack
) -> dict[str, Step]:
    """One step of all members, in each of three ways that learn the same; `laid_out` is to last while they are made."""
    where = device()
    images = torch.rand(batch, 1, 28, 28, device=where)
    labels = torch.randint(CLASSES, (batch,), device=where)
    members = [flat(name).to(where) for _ in range(count)]
    shape = flat(name).to("meta")
    stacked, _ = stack_module_state(members)
    together = grouped(members).to(memory_format=torch.channels_last)
    singles = [member.to(memory_format=torch.channels_last) for member in members]
    for each in (together, *singles):
        laid_out.enter_context(gradients_laid_out(each))

    def trained(weights: list[Tensor], answers: Callable[[], Tensor], truth: Tensor) -> Step:
        optimiser = torch.optim.Adam(weights, 1e-3, fused=True)

        def step() -> None:
            optimiser.zero_grad()
            with torch.autocast(where.type, torch.bfloat16, enabled=half):
                scores = answers()
            # The sum over members: each learns from the mean of its own batch.
            loss = F.cross_entropy(scores.float(), truth, reduction="sum") / batch
            loss.backward()
            optimiser.step()

        return step

    one = [trained([*each.parameters()], partial(each, images), labels) for each in singles]
    forward = vmap(lambda weights, given: functional_call(shape, weights, (given,)), (0, None))
    repeated = labels.repeat(count)

    def in_turn() -> None:
        for step in one:
            step()

    return {
        "one after another": in_turn,
        "vmap": trained([*stacked.values()], lambda: forward(stacked, images).flatten(0, 1), repeated),
        "grouped layers": trained([*together.parameters()], lambda: together(images).flatten(0, 1), repeated),
    }  # fmt: skip


def seconds(step: Step, times: int) -> float:
    """Of one step, the mean of a few."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", nargs="+", type=int, default=[2, 6])
    parser.add_argument("--networks", nargs="+", default=["titcombe", "lenet5"])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--times", type=int, default=10, help="steps in a round [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="all ways in turn, so many times")
    parser.add_argument("--precision", default="auto")
    quick = {"members": [2], "networks": ["lenet5"], "times": 1, "rounds": 1, "batch_size": 8}
    options, results = begin(parser, quick=quick)
    keep_memory()  # as every command does
    half = resolve_precision(options.precision) == HALF
    for name in options.networks:
        for count in options.members:
            with contextlib.ExitStack() as laid_out:
                ways = steps(name, count, options.batch_size, half, laid_out)
                spent: dict[str, list[float]] = {way: [] for way in ways}
                for step in ways.values():
                    step()  # warm
                for _ in range(options.rounds):
                    for way, step in ways.items():
                        spent[way].append(seconds(step, options.times))
            alone = spent.pop("one after another")
            for way, found in spent.items():
                ratios = [before / after for before, after in zip(alone, found)]
                what = f"{count} x {name} stacked, {way}"
                print(
                    f"{what:36} {1e3 * median(found):8.1f} ms a step, one after another {1e3 * median(alone):8.1f} ms:"
                    f" {median(ratios):.2f} x as fast ({min(ratios):.2f} to {max(ratios):.2f})",
                    flush=True,
                )
                results.add(what, found, "s a step", "one after another", ratios)
    results.write()


if __name__ == "__main__":
    main()
