"""Compiled max pools, against torch's own."""

import copy
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dpsnn import pools
from dpsnn.building import build_classifier
from dpsnn.data import DATASETS
from dpsnn.pools import compiled_pools
from dpsnn.specs import ClassifierSpec
from dpsnn.training import fit

PRECISIONS = [torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile at the first value that is pooled, for one thread, and leave the count as it was."""
    monkeypatch.setattr(pools, "WORTH", -1)
    monkeypatch.setattr(pools, "_pooled", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def maps(*shape: int, precision: torch.dtype = torch.float32) -> Tensor:
    """Of which many are equal, as of rounded numbers, also as zeros of both signs."""
    drawn = torch.randn(shape).round().to(precision)
    return drawn.to(memory_format=torch.channels_last).requires_grad_()


def compiled(layer: nn.Module, given: Tensor) -> Tensor:
    with compiled_pools(layer):
        found: Tensor = layer(given)
    assert "_Pool" in repr(found.grad_fn)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "shape", [(3, 32, 6, 8), (1, 33, 2, 2), (2, 100, 4, 2), (0, 32, 4, 4), (5, 64, 24, 24)]
)
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], precision: torch.dtype) -> None:
    given = maps(*shape, precision=precision)
    ours, theirs = compiled(nn.MaxPool2d(2), given), F.max_pool2d(given, 2)
    assert torch.equal(ours, theirs) and ours.dtype == precision
    assert torch.equal(ours.signbit(), theirs.signbit())
    assert ours.is_contiguous(memory_format=torch.channels_last)
    slopes = torch.randn(ours.shape).round().to(precision)  # with zeros of both signs
    # Gradients come in the layout of whatever is behind, or as one number for all.
    laid_out = slopes.to(memory_format=torch.channels_last), slopes.mT.contiguous().mT
    for each in (slopes, *laid_out, slopes.new_tensor(2.0).expand(slopes.shape)):
        found, expected = (
            torch.autograd.grad(made, given, each, retain_graph=True)[0] for made in (ours, theirs)
        )
        assert torch.equal(found, expected) and torch.equal(found.signbit(), expected.signbit())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_infinities_and_what_is_no_number_keep_their_meaning(precision: torch.dtype) -> None:
    values = [math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 3e38]
    chosen = torch.randint(len(values), (64, 32, 4, 4))
    given = torch.tensor(values).to(precision)[chosen].to(memory_format=torch.channels_last)
    given.view(torch.int16 if precision == torch.bfloat16 else torch.int32)[:, :3] |= (
        -(2**15) if precision == torch.bfloat16 else -(2**31)
    )  # what a processor calls NaN is below zero
    ours, theirs = compiled(nn.MaxPool2d(2), given.requires_grad_()), F.max_pool2d(given, 2)
    assert torch.equal(ours.isnan(), theirs.isnan()) and bool(ours.isnan().any())
    assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))
    # Of several that are no number it is the last.
    slopes = torch.tensor(values[2:]).to(precision)[torch.randint(len(values) - 2, ours.shape)]
    for follow in (False, True):  # by torch's operations too
        found, expected = (
            torch.autograd.grad(made, given, slopes, retain_graph=True, create_graph=follow)[0]
            for made in (ours, theirs)
        )
        assert torch.equal(found, expected) and torch.equal(found.signbit(), expected.signbit())
    pool, directions = nn.MaxPool2d(2), slopes.repeat(1, 1, 2, 2)
    expected = torch.func.jvp(pool, (given,), (directions,))[1]
    with compiled_pools(pool):
        assert torch.equal(torch.func.jvp(pool, (given,), (directions,))[1], expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_have_gradients(precision: torch.dtype) -> None:
    given, heights = maps(4, 32, 6, 4, precision=precision), torch.randn(4, 32, 3, 2)
    heights = heights.to(precision).requires_grad_()
    found = []
    for made in (compiled(nn.MaxPool2d(2), given), F.max_pool2d(given, 2)):
        first = torch.autograd.grad((made.square() * heights).sum(), given, create_graph=True)[0]
        found.append(torch.autograd.grad(first.square().sum(), (given, heights)))
    (by_maps, by_heights), expected = found
    assert torch.equal(by_maps, expected[0]) and torch.equal(by_heights, expected[1])


def test_transformed_functions_are_transformed() -> None:
    given, layer = maps(3, 32, 4, 4).detach(), nn.MaxPool2d(2)
    weights = torch.randn(3, 32, 2, 2)

    def loss(images: Tensor, weight: Tensor) -> Tensor:
        return (layer(images[None]).square() * weight).sum()

    def found() -> list[Tensor]:
        asked = given.clone().requires_grad_()
        batched = torch.autograd.grad(
            layer(asked), asked, torch.stack([weights, 2 * weights]), is_grads_batched=True
        )
        return [
            torch.func.vmap(torch.func.grad(loss))(given, weights),
            torch.func.vmap(loss, in_dims=(1, 0))(given.movedim(0, 1), weights),
            torch.func.jacrev(lambda each: layer(each[None]))(given[0]),
            torch.func.hessian(lambda each: loss(each, weights[0]))(given[0]),
            *batched,
        ]  # fmt: skip

    expected = found()
    with compiled_pools(layer):
        ours = found()
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


class Own(nn.MaxPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


@pytest.mark.parametrize(
    "layer, given",
    [
        (nn.MaxPool2d(3), maps(2, 32, 6, 6)),
        (nn.MaxPool2d(2, 1), maps(2, 32, 6, 6)),
        (nn.MaxPool2d((2, 1), 2), maps(2, 32, 6, 6)),
        (nn.MaxPool2d(2, padding=1), maps(2, 32, 6, 6)),
        (nn.MaxPool2d(2, dilation=2), maps(2, 32, 6, 6)),
        (Own(2), maps(2, 32, 6, 6)),
        (nn.AvgPool2d(2), maps(2, 32, 6, 6)),
        (nn.MaxPool2d(2), maps(2, 32, 5, 6)),
        (nn.MaxPool2d(2, ceil_mode=True), maps(2, 32, 6, 7)),
        (nn.MaxPool2d(2), maps(2, 31, 6, 6)),
        (nn.MaxPool2d(2), maps(2, 32, 6, 6)[0]),
        (nn.MaxPool2d(2), maps(2, 32, 6, 6, precision=torch.float64)),
        (nn.MaxPool2d(2), maps(2, 32, 6, 6, precision=torch.float16)),
        (nn.MaxPool2d(2), maps(2, 32, 6, 6).contiguous()),
        (nn.MaxPool2d(2), maps(2, 32, 6, 12)[..., ::2]),
    ],
)
def test_whatever_else_is_left_to_torch(layer: nn.Module, given: Tensor) -> None:
    expected = layer(given)
    with compiled_pools(layer):
        found = layer(given)
    assert torch.equal(found, expected) and "_Pool" not in repr(found.grad_fn)


def test_indices_are_left_to_torch() -> None:
    layer, given = nn.MaxPool2d(2, return_indices=True), maps(2, 32, 6, 6)
    with compiled_pools(layer):
        values, indices = layer(given)
    assert indices.dtype == torch.int64 and torch.equal(values, F.max_pool2d(given, 2))


@pytest.mark.parametrize("both", [2, (2, 2)])
def test_pairs_may_be_named_in_two_ways_and_the_input_too(both: int | tuple[int, int]) -> None:
    layer, given = nn.MaxPool2d(both, both, (0, 0), ceil_mode=True), maps(2, 32, 6, 6)
    with compiled_pools(layer):
        assert "_Pool" in repr(layer(input=given).grad_fn)


def test_few_values_are_left_to_torch_and_so_are_several_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, given = nn.MaxPool2d(2), maps(1, 32, 2, 2)
    monkeypatch.setattr(pools, "WORTH", 3 * given.numel())
    with compiled_pools(layer):
        assert ["_Pool" in repr(layer(given).grad_fn) for _ in range(5)] == 3 * [False] + 2 * [True]
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        assert "_Pool" not in repr(layer(given).grad_fn)


KEPT = """
import torch
from numba.core import caching
from torch import nn
from dpsnn import pools

def full(*_):
    raise OSError(28, "No space left on device")

if {place!r} == "full":
    caching.IndexDataCacheFile._save_data = full
elif {place!r} == "nowhere":
    caching.CacheImpl._locator_classes = []
torch.set_num_threads(1)
pools.WORTH = -1
layer = nn.MaxPool2d(2)
given = torch.randn(2, 32, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
expected = layer(given)
with pools.compiled_pools(layer):
    found = layer(given)
found.sum().backward()
assert torch.equal(found, expected) and "_Pool" in repr(found.grad_fn)
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["full", "nowhere", "there"])
def test_what_is_compiled_is_kept_where_there_is_room(place: str, tmp_path: Path) -> None:
    """Each in a process of its own: this one has compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    lines = KEPT.format(place=place)
    subprocess.run([sys.executable, "-c", lines], check=True, env=environment)
    assert bool([*tmp_path.rglob("*.nbc")]) == (place == "there")


def test_where_nothing_is_compiled_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, given = nn.MaxPool2d(2), maps(1, 32, 2, 2)
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it cannot be imported
    with compiled_pools(layer):
        assert "_Pool" not in repr(layer(given).grad_fn)


def test_layers_are_left_as_they_were() -> None:
    layer = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2))
    layer[1].forward = lambda input: input
    before = layer[1].forward
    with pytest.raises(RuntimeError, match="in between"), compiled_pools(layer):
        with compiled_pools(layer):  # a second time is none
            assert "_Pool" in repr(layer(maps(1, 32, 2, 2)).grad_fn)
        assert "_Pool" in repr(layer(maps(1, 32, 2, 2)).grad_fn)
        raise RuntimeError("in between")
    assert "forward" not in vars(layer[0]) and layer[1].forward is before


def test_whoever_replaces_a_layer_meanwhile_is_left_alone() -> None:
    gone, replaced = nn.MaxPool2d(2), nn.MaxPool2d(2)
    with compiled_pools(nn.Sequential(gone, replaced)):
        del gone.forward
        ours = replaced.forward
        theirs = lambda input: ours(input) + 1  # noqa: E731
        vars(replaced)["forward"] = theirs
    assert "forward" not in vars(gone) and replaced.forward is theirs


def test_settings_that_change_meanwhile_count() -> None:
    layer, given = nn.MaxPool2d(2), maps(1, 32, 8, 8)
    with compiled_pools(layer):
        layer.kernel_size = layer.stride = 4
        assert torch.equal(layer(given), F.max_pool2d(given, 4))


def test_copies_and_pickles_made_meanwhile_are_whole() -> None:
    layer, given = nn.Sequential(nn.MaxPool2d(2)), maps(1, 32, 8, 8)
    with compiled_pools(layer):
        copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    for each in copies:
        each[0].kernel_size = each[0].stride = 4
        assert torch.equal(pickle.loads(pickle.dumps(each))(given), F.max_pool2d(given, 4))
    assert layer[0].kernel_size == 2


@pytest.mark.filterwarnings("ignore")  # two of them are on their way out
@pytest.mark.parametrize(
    "follow",
    [
        lambda layer, given: torch.compile(layer, backend="eager"),
        torch.jit.trace,
        lambda layer, given: make_fx(layer)(given),
        lambda layer, given: lambda other: (
            layer(given) + torch.func.linearize(layer, given)[1](other - given)
        ),
    ],
    ids=["compile", "trace", "make_fx", "linearize"],
)  # fmt: skip
def test_whoever_follows_operations_sees_torchs(follow: Any) -> None:
    pools._compiled.cache_clear()  # who follows would follow the compiler
    layer, given = nn.MaxPool2d(2), maps(2, 32, 4, 4).detach()
    other = given + 1e-3
    with compiled_pools(layer):
        found = follow(layer, given)(other)
    assert torch.allclose(found, F.max_pool2d(other, 2))


class Marked(Tensor):
    pass


def test_tensors_of_other_kinds_stay_what_they_are() -> None:
    layer, given = nn.MaxPool2d(2), maps(2, 32, 4, 4).detach()
    with compiled_pools(layer):
        assert type(layer(given.as_subclass(Marked))) is Marked
        assert torch.equal(layer(torch._neg_view(given)), F.max_pool2d(-given, 2))
        with torch.device("meta"):  # as what is made where nobody says
            assert torch.equal(layer(given), F.max_pool2d(given, 2))


def test_a_checkpoint_finds_what_it_kept_also_where_compiling_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, slopes = maps(2, 32, 4, 4), torch.randn(2, 32, 2, 2)
    layer = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    expected = torch.autograd.grad(layer(given), given, slopes)[0]
    monkeypatch.setattr(pools, "WORTH", 3 * given.numel())
    with compiled_pools(layer):
        for _ in range(6):
            kept = checkpoint(layer, given, use_reentrant=False)
            assert torch.equal(torch.autograd.grad(kept, given, slopes)[0], expected)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_training_gives_the_same_weights(
    few: None, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for worth in (-1, 10**12):
        monkeypatch.setattr(pools, "WORTH", worth)
        torch.manual_seed(0)
        classifier = build_classifier(ClassifierSpec(dataset="digits", precision=precision))
        how = {"monitor": "val/accuracy", "mode": "last", "max_epochs": 1, "seed": 0}
        fit(classifier, DATASETS["digits"](batch_size=40), precision=precision, **how)  # type: ignore[arg-type]
        found.append(classifier.state_dict())
    assert pools._pooled > 0 and pools._compiled.cache_info().currsize
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
