"""What no attacker can beat: the posterior over the images that were sent, and a test that nobody did.

Let one of N images be sent, each as likely. How likely each of them makes what was heard is known exactly, and by Bayes
so is the probability of each, given what was heard. The mean of that posterior has the least expected squared error of
all functions of what was heard, and its mode names the right image most often: both hold for every attacker, whatever
it has learnt, asked or guessed, and even for one who is handed the N images and the client. They are about who hears
the transmissions of one image: who hears those of all N, and knows that each was sent once, can match them.

Both speak of the expectation over the noise and over which of these N it is. The fewer and the further apart they are,
the easier they are told apart: of few images, or little noise, the bound is near 0, which is true and of no use.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dpsnn.tensors import Inputs

INFORMATIVE = 0.2
"""Share of a measured error below which its bound says little about it."""

BEYOND_DOUBT = math.log(1e6)
"""`evidence` that an honest attacker reaches at most once in a million times."""

TILTS = tuple(4.0**power for power in range(-3, 8))
"""λ of the bets of `evidence`, in units of 1/variance of the images; the stake is shared out evenly among them."""


def posterior(misfits: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """How probable each of m images is for each of n heard ones, if all were equally likely to be sent.

    Args:
        misfits: -ln of how likely the m images make what was heard, in nats: summed over values and over all that was
            heard of the image, not averaged. A constant may be missing from every row.
    """
    return (-misfits).softmax(1)


def posterior_mean(
    weights: Float[Tensor, "n m"], images: Float[Tensor, " m *input"]
) -> Float[Tensor, " n *input"]:
    """The mean of the images under `posterior`: no guess has a smaller expected squared error."""
    return (weights @ images.flatten(1).to(weights.dtype)).view(-1, *images.shape[1:])


def named(weights: Float[Tensor, "n m"], start: int = 0) -> Float[Tensor, " n"]:
    """1 where the most probable image is the one that was sent, else 0.

    Args:
        weights: Of `posterior`; the image sent as row i is column `start` + i.
        start: As above.
    """
    truth = torch.arange(start, start + len(weights), device=weights.device)
    return (weights.argmax(1) == truth).float()


def evidence(
    guesses: Inputs,
    best: Inputs,
    weights: Float[Tensor, "n m"],
    images: Float[Tensor, " m *input"],
    start: int = 0,
) -> Float[Tensor, " tilts"]:
    """How strongly guesses speak against the account of what was heard: gains of bets, in nats, one for each tilt.

    Somebody bets that the images lie further towards the attacker's guess than the posterior w says: for each heard
    one he spreads his stake over all images as v_j ∝ w_j exp(2λ⟨g - m, x_j⟩), with the guess g, the posterior's mean m
    and a fixed λ, and is paid v_i / w_i for the true image i. If the account is right he wins nothing on average:
    given what was heard the mean of v_i / w_i is Σ w_j v_j / w_j = 1. That each of the N images is sent exactly once,
    instead of N random ones, only makes his gain smaller (the product over images of their mean gains is at most the
    N-th power of their average, which is 1). Hence his capital passes 10⁶ at most once in a million times (Markov),
    for any number of images and whatever the errors are distributed like.

    What a guess is better by than the optimum is ‖x - m‖² - ‖x - g‖² = 2⟨g - m, x - m⟩ - ‖g - m‖². So an attacker whose
    error is below the optimum's wins, and so does one whose error is not, but who knows what nobody can.

    Args:
        guesses: The attacker's, of n images.
        best: `posterior_mean` of the same.
        weights: Their `posterior`; the image sent as row i is column `start` + i.
        images: All m, each of which was sent once.
        start: As above.

    Returns:
        Gains for these n, to be summed over all images and given to `capital`.
    """
    known = images.flatten(1).to(weights.dtype)
    known = known - known.mean(0)
    variance = float(known.pow(2).sum(1).mean()) or 1.0
    along = 2 / variance * (guesses - best).flatten(1).to(weights.dtype) @ known.T
    at = torch.arange(start, start + len(along), device=along.device).unsqueeze(1)
    truth, log_weights = along.gather(1, at).squeeze(1), weights.log()
    gains = [tilt * truth - (log_weights + tilt * along).logsumexp(1) for tilt in TILTS]
    return torch.stack([gain.double().sum() for gain in gains])


def capital(gains: Float[Tensor, " tilts"]) -> float:
    """ln of what became of 1, shared out among the tilts of `evidence`; above `BEYOND_DOUBT` the account is wrong."""
    return float(gains.logsumexp(0)) - math.log(len(TILTS))
