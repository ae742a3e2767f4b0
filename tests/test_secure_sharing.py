"""Additive sharing, in the teaching piece and in the engine: what one party holds says nothing."""

import numpy as np
import pytest
from scipy import stats

from dpsnn.secure import sharing
from dpsnn.secure.sharing import Q


def numbers(count: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(0, Q, count)


def test_the_modulus_is_a_prime() -> None:
    # Fermat's test to several bases, and no small divisor.
    assert all(Q % divisor for divisor in range(2, 10_000))
    assert all(pow(base, Q - 1, Q) == 1 for base in (2, 3, 5, 7, 11, 13))


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_all_shares_rebuild_the_secret_and_fewer_do_not(parties: int) -> None:
    secret = numbers()
    shares = sharing.share(secret, parties)
    assert len(shares) == parties
    assert np.array_equal(sharing.rebuild(shares), secret)
    assert not (sharing.rebuild(shares[:-1]) == secret).any()


def test_sums_and_public_products_are_computed_share_by_share() -> None:
    a, b = numbers(), numbers()[::-1]
    shared_a, shared_b = sharing.share(a), sharing.share(b)
    assert np.array_equal(sharing.rebuild(sharing.add(shared_a, shared_b)), (a + b) % Q)
    for factor in (0, 3, -2, Q - 1, 10**20):
        exact = [int(value) * factor % Q for value in a]
        made = sharing.rebuild(sharing.multiply_by_public(shared_a, factor))
        assert made.tolist() == exact


def test_the_numbers_of_the_post() -> None:
    x, y = (sharing.share(np.array([value])) for value in (11, 122))
    assert sharing.rebuild(sharing.add(x, y)).tolist() == [133]


@pytest.mark.parametrize("party", [0, 1, 2])
def test_a_share_is_uniform_and_another_each_time(party: int) -> None:
    secret = np.full(20_000, 77_777)
    once, again = (sharing.share(secret)[party] for _ in range(2))
    assert not (once == again).any()
    assert 0 <= once.min() and once.max() < Q
    counts = np.bincount((once.astype(object) * 64 // Q).astype(int), minlength=64)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_real_numbers_survive_to_a_step() -> None:
    values = np.random.default_rng(1).normal(0, 100, 500)
    encoded = sharing.encode(values)
    assert np.abs(sharing.decode(encoded) - values).max() <= 0.5 / sharing.SCALE
    # A product with an encoded public number has the product of both scales.
    weight = int(sharing.encode(np.array([-0.375]))[0])
    product = sharing.rebuild(sharing.multiply_by_public(sharing.share(encoded), weight))
    np.testing.assert_allclose(
        sharing.decode(product, sharing.SCALE**2), values * -0.375, atol=1e-4
    )
