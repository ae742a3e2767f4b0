"""Noise for large pictures and large cuts: at which size, of how many, and one line where memory cannot suffice."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from test_audit_pictures import noise
from test_calibrate import FEWER, attacked_briefly, target, untaught
from torch import Tensor, nn

from dpsnn.attacks.decoder import LearnedDecoder
from dpsnn.attacks.ridge import RidgeRegression
from dpsnn.audit import calibrate_size, plan, wire
from dpsnn.audit.calibrate import calibrate
from dpsnn.audit.calibrate_curve import Curve
from dpsnn.audit.calibrate_noise import Goal, NoisyWire
from dpsnn.audit.calibrate_result import Settings
from dpsnn.audit.calibrate_run import calibrate_model
from dpsnn.audit.calibrate_size import fitting, roles_of
from dpsnn.audit.loading import load_model
from dpsnn.audit.run import audit
from dpsnn.audit.sides import make_sides
from dpsnn.audit.wire import at_lower, check_room, enough_memory, reduced
from dpsnn.errors import UsageError

SIDE = 96


def network() -> nn.Module:
    """A client whose cut `enc` sends 4 maps of 12×12 for pictures of 96×96, and one that sends 64 times as much."""
    torch.manual_seed(0)
    layers = {
        "wide": nn.Conv2d(3, 4, 3, 1, 1),
        "enc": nn.Conv2d(4, 4, 8, 8),
        "flat": nn.Flatten(),
        "head": nn.Linear(4 * 12 * 12, 2),
    }
    return nn.Sequential(OrderedDict(layers))


def photos(count: int = 40) -> tuple[Tensor, Tensor]:
    small = noise(count, 3, 6, 6) / 255
    large = nn.functional.interpolate(small, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    return (255 * large).byte(), torch.arange(count) % 2


@pytest.mark.parametrize(
    ("cut", "most", "rebuilt"), [("enc", plan.MOST_WEIGHTS, None), ("flat", 200_000, "8×8")]
)
def test_large_pictures_are_calibrated_at_a_lower_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str, most: int, rebuilt: str | None
) -> None:
    attacked_briefly(monkeypatch)
    monkeypatch.setattr(plan, "MOST_WEIGHTS", most)
    options: dict[str, Any] = {"kind": "gaussian", "clip": 2.0, "out": tmp_path}
    path = calibrate_model(network(), photos(), cut, "naming=0.5@10", learn=untaught, **options)
    content = json.loads(path.read_text())
    found = content["calibration"]
    assert content["model"]["image_shape"] == [3, SIDE, SIDE]
    assert content["model"]["attacked_shape"] == [3, 64, 64]
    assert any(note.startswith("attacked at 64×64 pixels") for note in content["data"]["notes"])
    assert any("mixture is left out: it asks the client" in note for note in found["notes"])
    said = [note for note in found["notes"] if note.startswith("ridge rebuilds pictures of")]
    assert [note.split()[4] for note in said] == ([rebuilt] if rebuilt else [])
    assert len(content["curve"]) == 7 and not found["failed"]
    by = {name for row in content["curve"] for name in row["intervals"]["MSE"]["by"]}
    audited = {"linear map (ridge)", "nearest own picture", "learned decoder", "weighted average"}
    assert by <= {"ridge", "decoder", "conditioned decoder"} | audited
    assert found["checked"]["kept"] is not False


def test_what_is_attacked_is_what_was_sent_of_whole_pictures() -> None:
    sides = make_sides(photos())
    model = load_model(network()).seeing(sides.image_shape, 2)
    place = model.cuts(sides.image_shape, ["enc"])[0][0]
    roles = roles_of(sides, place.target, 0)
    with torch.no_grad():
        whole = network()[:2](sides.victims.images.float() / 255)
    assert roles.codes is not None and roles.own_codes is not None and roles.again is not None
    assert torch.allclose(roles.codes, whole, atol=1e-5) and roles.reduced
    assert torch.equal(roles.again(), roles.codes)
    assert roles.victims.shape == (16, 3, 64, 64) and len(roles.own) == len(roles.own_codes) == 24
    small = reduced(sides.own.images, (3, 64, 64))
    assert torch.equal(roles.own[:20], small) and small.dtype == torch.uint8
    # All noises have the same activations, in one place.
    curve = Curve(
        NoisyWire(at_lower(place.target, (3, 64, 64)), "gaussian"), [0.5, 1.0], roles, untaught
    )
    assert curve.untrained_names() == ["ridge"]
    known = [
        curve.knowledge(each, attack)
        for each in curve.targets
        for attack in (RidgeRegression(), LearnedDecoder())
    ]
    assert {each.activations.data_ptr() for each in known} == {roles.own_codes.data_ptr()}


def test_activations_that_are_given_are_those_that_are_asked_for() -> None:
    whole, goal = target(), Goal.parse("naming=0.3@100")
    settings = Settings(kind="gaussian", clip=2.0)
    codes, own = (whole.encode(each) for each in (FEWER.victims, FEWER.own.float() / 255))
    given = FEWER._replace(codes=codes.clone(), own_codes=own.clone())
    first, second = (
        {**calibrate(whole, roles, goal, settings, learn=untaught).plain(), "seconds": 0}
        for roles in (FEWER, given)
    )
    assert first == second


def test_fewer_are_taken_where_memory_has_no_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = make_sides(photos(120))
    model = load_model(network()).seeing(sides.image_shape, 2)
    place = model.cuts(sides.image_shape, ["enc"])[0][0]
    assert len(fitting(sides, place, 1).victims) == 48
    monkeypatch.setattr(wire, "HELD", 4 * 12 * 12 * 40)
    less = fitting(sides, place, 1)
    assert [len(part) for part in (less.own, less.validation, less.victims)] == [40, 8, 40]
    assert "40 of 60 own pictures and 40 of 48 victims are taken" in less.notes[0]
    assert less.notes[0] in capsys.readouterr().err
    monkeypatch.setattr(calibrate_size, "GUESSED", 25 * 3 * 64 * 64 * 35)
    assert len(fitting(sides, place, 1).victims) == 35
    assert len(fitting(sides, place, 9).victims) == 30


def test_a_cut_beyond_all_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    check_room(10**6, (20, 4, 16))
    monkeypatch.setattr(wire, "memory_bytes", lambda: 3 * 10**7)
    line = r"sends 1,000,000 values of each picture: about 0.4 GB .*, and there are 0.0 GB; name a later cut"
    with pytest.raises(UsageError, match=line):
        check_room(10**6, (20, 4, 16))
    given: dict[str, Any] = {"model": network(), "data": photos(12)}
    with pytest.raises(
        UsageError, match="wide: memory does not suffice for a cut that sends 36,864"
    ):
        monkeypatch.setattr(wire, "memory_bytes", lambda: 10**6)
        audit(**given, cuts="wide")


def test_where_memory_ends_is_one_line() -> None:
    said = (
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
    )
    for error in (RuntimeError(said), MemoryError()):
        with pytest.raises(UsageError, match="^memory does not suffice .*; give fewer or smaller"):
            with enough_memory():
                raise error
    with pytest.raises(RuntimeError, match="^no such layer$"):
        with enough_memory():
            raise RuntimeError("no such layer")
