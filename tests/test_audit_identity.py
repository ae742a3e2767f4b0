"""Models and pictures are told from others of the same name, wherever they lie and however they are dealt out."""

import torch
from torch import Tensor, nn

from dpsnn.audit.agreement import other_code
from dpsnn.audit.identity import answers, of_module, of_tensors
from dpsnn.audit.sides import make_sides


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten())


def test_a_model_is_its_layers_weights_and_buffers() -> None:
    same = of_module(net())
    assert of_module(net()) == same and of_module(net(1)) != same
    for change in (
        lambda made: made[1].running_mean.add_(1e-6),
        lambda made: made.double(),
        lambda made: made.bfloat16(),
        lambda made: made.__setitem__(2, nn.Sigmoid()),
    ):
        made = net()
        change(made)
        assert of_module(made) != same


class Scaled(nn.Module):
    """What no state dict holds makes a difference to what is answered."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.factor = nn.Linear(64, 3), factor

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.factor * self.layer(images.flatten(1)))


def test_code_is_told_by_what_is_answered() -> None:
    same, other = Scaled(1.0), Scaled(1.5)
    assert of_module(same) == of_module(other)
    first, second = (answers(each, (1, 8, 8)) for each in (same, other))
    assert answers(same, (1, 8, 8)) == first and len(first) == 6
    one, two, three = ({"digest": "a", "answers": each} for each in (first, second, None))
    assert other_code(one, two) and not other_code(one, one | {"digest": "a"})
    assert not other_code(one, three) and not other_code(one, two | {"digest": "b"})
    near = [each * (1 + 1e-3) for each in first]
    assert not other_code(one, one | {"answers": near})


def test_pictures_are_the_same_in_any_order_on_any_side() -> None:
    images = (255 * torch.rand(20, 1, 5, 5)).byte()
    found = of_tensors([images])
    assert of_tensors([images[10:], images[:10].flip(0)]) == found
    twice = images.clone()
    twice[0] = twice[1]
    assert of_tensors([twice]) != found != of_tensors([images[1:]])
    digests = {make_sides((images, torch.arange(20) % 2), seed=seed).digest for seed in (0, 1)}
    assert digests == {found}
