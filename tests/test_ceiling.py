"""The accuracy that a promise leaves: against its closed form, the best classifiers there are, and trained ones."""

import math

import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import nn

from dpsnn.defences import DefenceModule
from dpsnn.defences.clamp import ClampLaplace
from dpsnn.defences.clip import ClipGaussian
from dpsnn.defences.noise import GaussianNoise
from dpsnn.errors import UsageError
from dpsnn.metrics.ceiling import (
    accuracy_ceiling,
    candidates_for,
    gaussian_shift,
    largest_share,
    least_noise,
    promised_ceiling,
)
from dpsnn.metrics.naming import gaussian_power, laplace_power
from dpsnn.target import Target


def wire(noise: DefenceModule, values: int = 4) -> Target:
    return Target.of_client(nn.Identity(), (values,), noise)


@pytest.mark.parametrize(("classes", "percent"), [(10, 56.5), (2, 92.6), (100, 18.9), (1, 100.0)])
def test_what_five_of_a_hundred_named_among_a_thousand_leaves(classes: int, percent: float) -> None:
    left = promised_ceiling(0.05, 1000, 1 / classes)
    assert 100 * left == pytest.approx(percent, abs=0.05)
    noise = ClipGaussian(3.0 / gaussian_shift(0.05, 1000), 3.0)
    assert wire(noise).naming(1000) == pytest.approx(0.05)
    assert accuracy_ceiling(wire(noise).naming, 1 / classes) == pytest.approx(left)


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 0.9])
def test_the_ceiling_is_the_written_one(share: float, queries: int) -> None:
    target = wire(ClipGaussian(2.0, 1.5))
    written = norm.cdf(norm.ppf(share) + math.sqrt(queries) * 1.5 / 2.0)
    found = accuracy_ceiling(lambda n: target.naming(n, queries), share)
    assert found == pytest.approx(written) and found >= share


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_of_laplace_noise_in_a_box_it_is_that_of_the_worst_shift(share: float) -> None:
    target = wire(ClampLaplace(3.0, 1.0), 6)
    found = accuracy_ceiling(lambda n: target.naming(n, 2), share)
    assert found == laplace_power(share, 1 / 3, 12) > share


def test_nothing_is_left_out_where_nothing_is_bounded() -> None:
    assert accuracy_ceiling(wire(GaussianNoise(5.0)).naming, 0.1) == 1


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("queries", [1, 3])
def test_two_points_are_classified_exactly_so_well(std: float, queries: int) -> None:
    torch.manual_seed(0)
    count, ends = 200_000, torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    labels = torch.arange(count) % 2
    noise = GaussianNoise(std)
    heard = torch.stack([noise(ends[labels]) for _ in range(queries)]).mean(0)
    right = float(((heard[:, 0] < 0).long() == labels).float().mean())
    bound = accuracy_ceiling(lambda n: wire(ClipGaussian(std, 1.0)).naming(n, queries), 0.5)
    assert right == pytest.approx(bound, abs=4 * 0.5 / math.sqrt(count))


@pytest.mark.parametrize("noise", [ClipGaussian(0.7, 1.0), ClampLaplace(1.0, 0.5)], ids=str)
@pytest.mark.parametrize("shares", [(0.25, 0.25, 0.25, 0.25), (0.6, 0.2, 0.1, 0.1)])
def test_no_classifier_beats_it(noise: DefenceModule, shares: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    counts = [int(2000 * share) for share in shares]
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    # The classes as far apart as the set allows: axes of a ball, corners of a box.
    ends = torch.cat([torch.eye(2), -torch.eye(2)])
    if isinstance(noise, ClampLaplace):
        ends = torch.tensor([[0.5, 0.5], [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5]])
    codes = ends[labels]
    target = wire(noise, 2)
    bound = accuracy_ceiling(target.naming, max(shares))
    chances = torch.tensor(shares).log()
    heard = target.transmit(codes)
    bayes = (chances - target.mechanism.pairwise(ends, heard)).argmax(1)
    learnt = LogisticRegression().fit(target.transmit(codes)[0], labels).predict(heard[0])
    for guess in (bayes, torch.from_numpy(learnt)):
        right = float((guess == labels).float().mean())
        assert max(shares) < right < bound + 2 / math.sqrt(len(labels))


@pytest.mark.parametrize("kind", [ClipGaussian, ClampLaplace])
@pytest.mark.parametrize(("share", "among"), [(0.05, 1000), (0.5, 2), (0.2, 30)])
@pytest.mark.parametrize("start", [1e-3, 1.0, 1e4])
def test_the_least_noise_is_found_from_anywhere(
    kind: type[DefenceModule], share: float, among: int, start: float
) -> None:
    def named(noise: float) -> float:
        return wire(kind(noise, 2.0)).naming(among)  # type: ignore[call-arg]

    if share <= 1 / among:
        with pytest.raises(UsageError, match="no noise brings it down"):
            least_noise(named, share - 0.01, start)
        return
    noise = least_noise(named, share, start)
    assert named(noise) <= share < named(noise / 1.002)
    if kind is ClipGaussian:
        assert noise == pytest.approx(2 / gaussian_shift(share, among), rel=2e-3)


def test_where_noise_is_not_needed_next_to_none_is_found() -> None:
    assert least_noise(lambda noise: 0.1, 0.2) < 1e-15


@pytest.mark.parametrize(("accuracy", "largest"), [(0.9, 0.1), (0.7, 0.5), (0.99, 0.1)])
def test_what_may_be_promised_for_an_accuracy(accuracy: float, largest: float) -> None:
    among = candidates_for(accuracy, 0.05, largest)
    assert promised_ceiling(0.05, among, largest) == pytest.approx(accuracy)


def test_the_largest_share_is_counted() -> None:
    assert largest_share(torch.tensor([0, 3, 3, 1])) == 0.5
    assert math.isnan(largest_share(torch.tensor([], dtype=torch.long)))
    assert gaussian_power(1.0, 0.3) == 1
