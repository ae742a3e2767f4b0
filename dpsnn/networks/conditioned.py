"""A decoder that is told one number beside what it decodes: how much noise is on it.

Every layer's output is multiplied by, and added to, smooth functions of that number (FiLM: Perez et al. 2018, arXiv
1709.07871): so one decoder shrinks towards the mean image under much noise, and keeps every detail under little.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpsnn.networks.decoder import Decoder

HIDDEN = 32
"""Units between the number and what it does to a layer."""

BENT = (nn.Linear, nn.BatchNorm2d)
"""Layers behind which it takes part; a decoder without them is the same for all noises, and is found no good."""


class Film(nn.Module):
    """Scale and shift every feature by functions of one number; at the beginning they do nothing.

    Args:
        features: Along the second axis.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        last = nn.Linear(HIDDEN, 2 * features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(1, HIDDEN), nn.Tanh(), last)

    def forward(self, values: Float[Tensor, "n f *grid"], told: Float[Tensor, "n 1"]) -> Tensor:
        scale, shift = self.layers(told).chunk(2, 1)
        ends = (*scale.shape, *[1] * (values.dim() - 2))
        return values * (1 + scale.view(ends)) + shift.view(ends)


class Told(nn.Module):
    """Layers whose input `(N, values + 1)` ends in that number, about from -1 to 1.

    Args:
        layers: Of a decoder, which take the values in their shape.
        shape: That of one of them.
    """

    def __init__(self, layers: nn.Sequential, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.layers = shape, layers
        features = {
            str(place): layer.out_features if isinstance(layer, nn.Linear) else layer.num_features
            for place, layer in enumerate(layers)
            if isinstance(layer, BENT)
        }
        self.films = nn.ModuleDict({place: Film(count) for place, count in features.items()})

    def forward(self, seen: Float[Tensor, "n more"]) -> Tensor:
        values, told = seen[:, :-1].unflatten(1, self.shape), seen[:, -1:]
        for place, layer in enumerate(self.layers):
            values = layer(values)
            if str(place) in self.films:
                values = self.films[str(place)](values, told)
        return values


def conditioned(decoder: Decoder, shape: tuple[int, ...]) -> Decoder:
    """The same decoder, told a number; its input is `(N, values + 1)`.

    Args:
        decoder: The layers are its own.
        shape: Of what it decodes without.
    """
    return Decoder(
        Told(decoder.layers, shape),
        bounded=decoder.bounded,
        channels_last=False,
        rates=decoder.rates,
        looks=decoder.looks,
    )


def evenly(spreads: Float[Tensor, " levels"]) -> Float[Tensor, " levels"]:
    """What a decoder is told of noises: their logarithms, from -1 to 1; a noise of 0 stands below the others.

    Where all are lost in rounding it is told nothing.
    """
    seen = spreads[spreads > 0]
    if not len(seen):
        return torch.zeros_like(spreads)
    logs = spreads.clamp(min=float(seen.min()) / math.e).log()
    low, high = logs.min(), logs.max()
    return 2 * (logs - low) / (high - low) - 1 if high > low else torch.zeros_like(logs)
