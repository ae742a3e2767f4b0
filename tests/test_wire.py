"""The precision of the wire: rounding as numpy does it, its cells, its set, and the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from dpsnn.cli import main
from dpsnn.defences import CutInfo, DefenceList
from dpsnn.defences.noise import GaussianNoise
from dpsnn.defences.values import Values
from dpsnn.defences.wire import ToFloat, Wire, WirePrecision
from dpsnn.errors import UsageError
from dpsnn.evaluation.classifiers import classifier_row

VALUES = torch.cat([torch.randn(500), torch.tensor([0.0, -0.0, 1.0, -1.0, 7e4, -1e9, 1e-9, 3e-8])])


def test_float16_is_numpys_and_what_is_beyond_it_the_largest() -> None:
    found = Wire("float16")(VALUES[None])[0].numpy()
    wanted = VALUES.numpy().clip(-65504, 65504).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, wanted)


def test_bfloat16_is_torchs_and_float32_exactly_the_identity() -> None:
    assert torch.equal(Wire("bfloat16")(VALUES[None])[0], VALUES.bfloat16().float())
    assert Wire("float32")(VALUES) is VALUES and not Wire("float32").mechanism()


def test_int8_has_127_steps_on_either_side_of_0() -> None:
    found = Wire("int8", 4.0)(VALUES[None])[0].numpy()
    wanted = (VALUES.double().numpy().clip(-4, 4) * 31.75).round() / 31.75
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(np.unique(found)) <= 255


def test_int8_needs_a_bound() -> None:
    cut = CutInfo((5,), (1, 8, 8), 10, bound=None)
    with pytest.raises(UsageError, match="int8 has no scale; give --wire_precision float16, or"):
        WirePrecision(carries="int8").build(cut)
    with pytest.raises(UsageError, match="unknown wire_precision 'float8'; choose from"):
        WirePrecision(carries="float8")


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_cell_ends_half_way_to_the_next_number(name: str) -> None:
    step = ToFloat(name)
    heard = step.apply(VALUES[VALUES.abs() > 1e-6])[None, None]
    lower, upper = step.cells(heard)
    for edge in (lower, upper):
        near = heard.double() + (edge - heard.double()).clamp(-1e30, 1e30) * 0.99
        assert torch.equal(step.apply(near).float(), heard)
    if name == "float16":
        numbers = heard[0, 0].numpy().astype(np.float16)
        after = np.nextafter(numbers, np.float16(np.inf)).astype(np.float64)
        np.testing.assert_array_equal(upper[0, 0], (after + numbers) / 2)
        before = np.nextafter(numbers, np.float16(-np.inf)).astype(np.float64)
        np.testing.assert_array_equal(lower[0, 0], (before + numbers) / 2)


def test_the_likelihood_behind_noise_is_the_mass_of_the_cell() -> None:
    defences = DefenceList([GaussianNoise(0.4), Wire("bfloat16")])
    activation = torch.tensor([[0.5, -0.7]])
    heard = torch.tensor([[[0.8125, -1.625]]])
    half = np.array([2.0**-9, 2.0**-8])
    ends = [
        stats.norm(activation[0].numpy(), 0.4).cdf(heard[0, 0].numpy() + s * half) for s in (-1, 1)
    ]
    wanted = -np.log(ends[1] - ends[0]).mean()
    assert defences.misfit(activation, heard).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_values_keep_within_the_image_of_their_set(name: str) -> None:
    step = ToFloat(name)
    values = Values(3, -0.3, 3.0, l1=2.0)
    image = step.image(values)
    points = step.apply(-0.3 + 3.3 * torch.rand(500, 3))
    assert points.min() >= image.low and points.max() <= image.high
    assert 2.0 < image.l1 < 2.1 and image.apart_l2() <= image.l1
    assert step.image(Values(3)).high == torch.finfo(step.kind).max


def test_training_sees_through_the_rounding() -> None:
    activation = torch.tensor([[0.1, 2.0, 1e6]], requires_grad=True)
    Wire("float16")(activation).sum().backward()
    assert activation.grad is not None and activation.grad.tolist() == [[1, 1, 0]]


def test_the_command_line_trains_names_and_tabulates_it(
    place: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("train_model --max_epochs 1 --wire_precision float16".split()) == 0
    target = Path(capsys.readouterr().out.strip())
    assert "_float16wire" in target.name
    assert classifier_row(target, "data")["WirePrecision"] == "float16"
    assert main("train_model --network lenet5 --cut fc2 --wire_precision int8".split()) == 2
    assert "int8 has no scale" in capsys.readouterr().err.splitlines()[-1]
