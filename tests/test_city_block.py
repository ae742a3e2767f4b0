"""Sums of absolute differences, against scipy's."""

import math
import sys

import pytest
import torch
from scipy.spatial.distance import cdist

from dpsnn.defences import city_block as module
from dpsnn.defences.city_block import city_block, compiled


@pytest.mark.parametrize("rows", [0, 1, 4, 6, 11])
@pytest.mark.parametrize("others", [0, 1, 5])
@pytest.mark.parametrize("precision", [torch.float, torch.double])
@pytest.mark.parametrize("threads", [1, 2])
def test_they_are_scipys(
    rows: int, others: int, precision: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    a, b = torch.randn(rows, 37).to(precision), torch.randn(others, 37).to(precision)
    found = compiled(a, b)
    assert found.dtype == precision and found.shape == (rows, others)
    expected = cdist(a.double().numpy(), b.double().numpy(), "cityblock")
    within = 1e-5 if precision == torch.float else 1e-13
    assert found.double().numpy() == pytest.approx(expected, rel=within)


def test_strides_infinities_and_what_is_no_number_keep_their_meaning() -> None:
    # Longer than what a processor adds up at once, in the first four rows and in the one that is left.
    a, b = torch.randn(133, 5).T, torch.randn(3, 266)[:, ::2]
    a[0, 0], b[1, 2], a[2, 70], a[4, 4] = math.inf, -math.inf, math.nan, math.nan
    a[1, 9], b[2, 9] = math.inf, math.inf
    expected = cdist(a.numpy(), b.numpy(), "cityblock")
    assert compiled(a, b).numpy() == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_many_are_compiled_and_few_or_others_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        called.append(len(a))
        return torch.cdist(a, b, p=1)

    called = list[int]()
    monkeypatch.setattr(module, "compiled", asked)
    a, b = torch.rand(8, 3), torch.rand(5, 3)
    city_block(a, b)
    monkeypatch.setattr(module, "WORTH", 120)
    city_block(a[1:], b)
    city_block(a.bfloat16().float(), b)
    city_block(a.double(), b.double())
    assert called == [8, 8]
    city_block(a.requires_grad_(), b).sum().backward()  # type: ignore[no-untyped-call]
    assert called == [8, 8] and a.grad is not None
    with pytest.raises(RuntimeError):
        city_block(a.bfloat16(), b.bfloat16())  # torch has none of these either


def test_where_nothing_is_compiled_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 0)
    monkeypatch.setattr(module, "compiled", lambda a, b: pytest.fail("is compiled"))
    a, b = torch.rand(8, 3), torch.rand(5, 3)
    monkeypatch.setattr("numba.config.DISABLE_JIT", True)
    assert torch.equal(city_block(a, b), torch.cdist(a, b, p=1))
    monkeypatch.setitem(sys.modules, "numba", None)  # as where it cannot be imported
    assert torch.equal(city_block(a, b), torch.cdist(a, b, p=1))


def test_they_may_be_asked_for_where_no_gradients_are_kept() -> None:
    with torch.inference_mode():
        a = torch.rand(5, 3)
        assert torch.allclose(compiled(a, a), torch.cdist(a, a, p=1))
