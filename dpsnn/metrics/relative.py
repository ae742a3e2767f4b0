"""How far a reconstruction is off, measured by the length of the image."""

from jaxtyping import Float
from torch import Tensor

from dpsnn.metrics.base import Metric, Scored, Values
from dpsnn.tensors import Images


def relative_l2(reconstructions: Images, images: Images) -> Float[Tensor, " n"]:
    """‖x̂ - x‖ / ‖x‖ per image: 0 for a copy, 1 for a black picture; without a limit for a black original."""
    difference, norm = (
        (part).flatten(1).norm(dim=1) for part in (reconstructions - images, images)
    )
    return difference / norm.clamp(min=1e-6)


class RelativeL2(Metric):
    """Distance of the reconstruction over the length of the image."""

    key = "relative_l2"
    column = "RelativeL2"
    shuffled = "{}Shuffled"
    label = "relative L2 (lower: leaks more)"
    short = "relative L2"
    leaks = "lower"
    order = 80

    def values(self, seen: Scored) -> Values:
        return relative_l2(seen.reconstructions, seen.images)
