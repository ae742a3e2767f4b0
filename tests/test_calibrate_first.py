"""What is looked at before anything is trained: one score or many, classes that are not there, clients that waver."""

import itertools
import re
from dataclasses import replace
from typing import Any

import audit_models as models
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_calibrate import BRIEF, FEWER, LABELS, PICTURES, PIXELS, given, refusing, target
from torch import Tensor, nn

from dpsnn.audit import calibrate as searching
from dpsnn.audit import calibrate_server
from dpsnn.audit.calibrate import calibrate, training
from dpsnn.audit.calibrate_curve import Curve, Roles, falling, grid, rising
from dpsnn.audit.calibrate_first import look
from dpsnn.audit.calibrate_kept import _beaten
from dpsnn.audit.calibrate_noise import (
    Goal,
    NoisyWire,
    at_most,
    noise_for_error,
    noise_for_naming,
    upwards,
)
from dpsnn.audit.calibrate_result import Settings
from dpsnn.audit.calibrate_run import calibrate_model
from dpsnn.audit.calibrate_server import accuracy, finetuned, scores, unscored
from dpsnn.cli import main
from dpsnn.defences.values import Values
from dpsnn.errors import UsageError
from dpsnn.target import Target

__all__ = ["given"]  # a fixture

GOAL = Goal("mse", 0.03)


def behind(server: nn.Module) -> Target:
    """The usual client, and another server."""
    torch.manual_seed(0)
    client = nn.Sequential(nn.Flatten(), nn.Linear(64, 24))
    return Target.of_client(client, (1, 8, 8), server=server, name="digits")


# ---------------------------------------------------------------- answers of the server

ODD = LABELS % 2


@pytest.fixture(scope="module")
def binary() -> tuple[Target, LogisticRegression, Tensor]:
    """A network with one logit, the same by scikit-learn, and what is sent of the victims."""
    head = nn.Linear(24, 1)
    whole = behind(head)
    codes = whole.encode(PICTURES.own.float() / 255)
    fitted = LogisticRegression().fit(codes.numpy(), ODD[:300].numpy())
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    whole = behind(head)
    return whole, fitted, whole.encode(PICTURES.victims)


def test_one_score_is_that_of_class_1(binary: tuple[Target, LogisticRegression, Tensor]) -> None:
    whole, fitted, codes = binary
    labels = ODD[300:500]
    assert unscored(whole, codes, labels) == ""
    found = accuracy(whole, codes, labels, 1, 0)["value"]
    right = 100 * fitted.score(codes.numpy(), labels.numpy())
    assert found == pytest.approx(right) and right > 70
    # Its probabilities are those of a logistic regression, so cross-entropy is the right loss.
    assert whole.server is not None
    told = scores(whole.server(codes)).softmax(1)[:, 1]
    assert told.tolist() == pytest.approx(fitted.predict_proba(codes.numpy())[:, 1], abs=1e-5)


def test_one_score_is_trained_with_the_noise_on(
    binary: tuple[Target, LogisticRegression, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate_server, "RATE", 0.02)
    whole, _, codes = binary
    wire, own = NoisyWire(whole, "gaussian"), whole.encode(PICTURES.own.float() / 255)
    noisy = wire.at(0.2)
    trained = finetuned(nn.Linear(24, 1), noisy, own, ODD[:300], 1, 4, training(0), 0)
    after = accuracy(Target(**{**vars(noisy), "server": trained}), codes, ODD[300:500], 1, 0)
    assert after["value"] > 65  # type: ignore[operator]


@pytest.mark.parametrize(
    ("outputs", "labels", "line"),
    [
        (10, LABELS + 1, "classes up to number 10, and the model has scores for 0 to 9 alone"),
        (1, LABELS, "classes up to number 9, and the model has scores for 0 to 1 alone"),
    ],
)
def test_classes_without_a_score_are_refused(outputs: int, labels: Tensor, line: str) -> None:
    whole, pictures = behind(nn.Linear(24, outputs)), FEWER._replace(labels=labels[300:364])
    with pytest.raises(UsageError, match=line):
        calibrate(whole, pictures, GOAL, Settings(decoder=BRIEF), learn=refusing)
    # Also where those to learn from alone have such a class.
    pictures = FEWER._replace(labels=torch.zeros(64, dtype=torch.long), own_labels=labels[:60])
    with pytest.raises(UsageError, match=line):
        calibrate(whole, pictures, GOAL, Settings(decoder=BRIEF), learn=refusing)


def looked(whole: Target, pictures: Roles = FEWER, goal: Goal = GOAL, **settings: Any) -> list[str]:
    made = look(
        whole, whole.encode(pictures.victims), pictures, goal, Settings(**settings), whole.server
    )
    return made.notes


def test_an_answer_that_is_a_map_has_no_accuracy() -> None:
    maps = behind(nn.Sequential(nn.Linear(24, 48), nn.Unflatten(1, (3, 4, 4))))
    (note,) = looked(maps)
    assert note == (
        "no accuracy is measured: the model's answers of shape (3, 4, 4) are no row of scores of classes"
    )
    with pytest.raises(UsageError, match="no row of scores of classes; leave out --finetune"):
        looked(maps, finetune_epochs=1)
    assert looked(target()) == [] == looked(target(False))


@pytest.mark.parametrize(
    ("pictures", "settings", "line"),
    [
        (
            FEWER._replace(labels=None),
            {"accuracy": 50},
            "no classes; give them, or leave out --acc",
        ),
        (FEWER._replace(labels=None), {"finetune_epochs": 1}, "no classes; leave out --finetune"),
        (FEWER._replace(own_labels=None), {"finetune_epochs": 1}, "not have the classes of the v"),
    ],
)
def test_what_cannot_be_had_is_said_first(
    pictures: Roles, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(UsageError, match=line):
        looked(target(), pictures, **settings)


def test_a_server_without_weights_is_refused_before_anything_is_trained() -> None:
    settings = Settings(decoder=BRIEF, finetune_epochs=1)
    with pytest.raises(UsageError, match="no weights to train; leave --finetune_epochs out"):
        calibrate(behind(nn.Softmax(1)), FEWER, GOAL, settings, learn=refusing)  # of 24 classes


# ---------------------------------------------------------------- the client


def test_a_client_that_wavers_is_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    def client(images: Tensor) -> Tensor:
        return images.flatten(1) + 0.01 * torch.randn(len(images), 64)

    restless = Target.of_client(client, (1, 8, 8))
    (note,) = looked(restless)
    assert "answers to the same images differ by up to 0.0" in note
    assert "and the promise is for the worst of 5 answers" in note
    often = Settings(kind="gaussian", queries=3)
    for goal in (Goal("ssim", 0.3), Goal("mse", 0.03)):
        with pytest.raises(UsageError, match="who hears 3 of them hears more than is measured"):
            calibrate(restless, FEWER, goal, often, learn=refusing)
    with pytest.raises(UsageError, match="no noise makes the best guess"):
        calibrate(restless, FEWER, Goal("mse", 0.9), Settings(kind="gaussian"), learn=refusing)
    assert "differ by up to" in capsys.readouterr().err, "said before anything is looked for"


def test_the_worst_of_several_answers_says_how_much_noise_an_error_takes() -> None:
    """Who whispers at first and speaks up later needs the noise of his voice."""
    calls = itertools.count()

    def client(images: Tensor) -> Tensor:
        return images.flatten(1) * (0.02 if next(calls) < 3 else 1.0)

    settings = Settings(kind="gaussian")
    whispering = Target.of_client(client, (1, 8, 8))
    search = searching._Search(whispering, FEWER, GOAL, settings, None, refusing)
    assert float(search.codes.amax()) <= 0.02 and len(search.answers) == 5
    found = search._noise(NoisyWire(search.target, "gaussian"))
    half = search.finding
    clear = FEWER.victims[half].flatten(1)
    aloud = noise_for_error(
        NoisyWire(search.target, "gaussian"), GOAL, clear, FEWER.victims[half], 0
    )
    assert found == aloud > 0.1


def test_what_any_server_can_do_follows_from_the_classes_that_users_send() -> None:
    """Of whom nine of ten have one class, always naming that is right nine times of ten, whatever a surrogate has."""
    labels = torch.tensor([0] * 9 + [1]).repeat(6)
    pictures = Roles(PIXELS[:300], PICTURES.victims[:60], torch.arange(300) % 2, labels)
    clipped = Settings(kind="gaussian", clip=2.0)
    goal = Goal("naming", 0.05, 1000)
    search = searching._Search(target(), pictures, goal, clipped, None, refusing)
    assert search.largest == pytest.approx(0.9)
    wire = NoisyWire(search.target, "gaussian", 2.0)
    ceiling = search._ceiling(wire, search._noise(wire))
    assert ceiling is not None and ceiling > 90


def test_what_is_outside_the_set_in_a_later_answer_is_outside() -> None:
    calls = itertools.count()

    class Late(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).tanh() * (1.0 if next(calls) < 3 else 1.5)

    bounded = replace(Target.of_client(Late(), (1, 8, 8)), values=Values(64, -1.0, 1.0))
    search = searching._Search(
        bounded, FEWER, Goal("naming", 0.1, 100), Settings(kind="gaussian"), None, refusing
    )
    assert "lies outside the set in which its last layer should put it" in " ".join(search.notes)
    with pytest.raises(UsageError, match="nothing bounds what crosses the wire"):
        search._noise(NoisyWire(search.target, "gaussian"))


def test_a_client_without_gradients_does_not_end_a_calibration_that_is_all_but_done() -> None:
    blind = Target.of_client(models.blind, (1, 8, 8))
    curve = Curve(NoisyWire(blind, "gaussian"), [5.0], FEWER, refusing)
    victims = FEWER.victims
    curve.guesses[0]["mean"] = victims.mean(0, keepdim=True).expand(len(victims), -1, -1, -1)
    assert _beaten(curve, 0, torch.arange(64), blind.client) == []
    curve.guesses[0]["told"] = victims
    (said,) = _beaten(curve, 0, torch.arange(64), blind.client)
    assert "knows what nobody can" in said


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match=r"for \d+ of 64 pictures the client gives values that"):
        looked(Target.of_client(lambda images: images.flatten(1).log(), (1, 8, 8)))


# ---------------------------------------------------------------- the promise and the pictures


def test_a_measure_that_is_not_defined_is_refused() -> None:
    small = Roles(PIXELS[:20, :, :4, :4], PICTURES.victims[:20, :, :4, :4])
    flat = Target.of_client(nn.Flatten(), (1, 4, 4))
    line = "ssim is not defined for pictures of 4×4 pixels, only from 6 on a side; promise mse="
    with pytest.raises(UsageError, match=line):
        calibrate(flat, small, Goal("ssim", 0.3), learn=refusing)
    assert looked(flat, small) == [], "of the others both are"


def test_all_is_no_cut(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["all" if word == "enc" else word for word in given]
    assert main(["calibrate", *words, "--target", "mse=0.03"]) == 2
    assert "--cut is 'all', and noise is found for one cut; name it" in capsys.readouterr().err


def test_one_clip_for_two_norms_is_refused(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *given, "--target", "mse=0.03", "--clip", "2"]) == 2
    said = capsys.readouterr().err
    assert (
        "L2 norm of an activation before gaussian noise and the size of every value before" in said
    )
    assert "name the --noise_kind" in said
    assert Settings(kind="laplace", clip=2.0).clip == 2 and Settings().clip is None


def test_a_seed_counts_from_0() -> None:
    with pytest.raises(UsageError, match="seed is -1; it must be a whole number from 0"):
        calibrate_model("net.py:make", "digits.npz", "enc", "mse=0.03", seed=-1)


# ---------------------------------------------------------------- how much, and in how many digits


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (1.23401, 1.235),
        (1.234, 1.234),
        (0.1, 0.1),
        (99.991, 100.0),
        (1.00001e-7, 1.001e-7),
        (123456.0, 123500.0),
        (0.0, 0.0),
    ],
)
def test_noise_is_rounded_upwards(noise: float, said: float) -> None:
    assert upwards(noise) == said == upwards(said) and float(f"{said:g}") == said


@pytest.mark.parametrize(
    ("percent", "said"), [(56.41, "56.5"), (56.4, "56.4"), (56.40000000001, "56.4"), (100, "100.0")]
)
def test_what_is_left_at_most_is_rounded_upwards(percent: float, said: str) -> None:
    assert at_most(percent) == said


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_the_noise_that_is_said_keeps_the_promise(kind: str) -> None:
    whole, goal = target(), Goal("naming", 0.05, 1000)
    codes = whole.encode(PICTURES.victims)
    for step in range(30 if kind == "gaussian" else 3):
        wire = NoisyWire(whole, kind, 1 + 0.0731 * step)
        noise = noise_for_naming(wire, goal, codes)
        said = float(f"{noise:g}")
        assert said == noise and wire.named(1000)(said) <= 0.05 < wire.named(1000)(0.997 * said)


def test_the_noises_of_a_curve_have_as_few_digits() -> None:
    noises = grid(1.234, 3, 2)
    assert 1.234 in noises and noises[0] == 0.1543 and noises[-1] == 9.872


# ---------------------------------------------------------------- what was measured


def estimate(low: float, high: float) -> dict[str, float]:
    return {"value": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("values", "leaks", "places"),
    [
        ([(80, 90), (70, 80), (50, 60)], "higher", []),
        ([(70, 80), (78, 88), (50, 60)], "higher", []),  # within the intervals
        ([(70, 80), (81, 88), (50, 60)], "higher", [1]),
        ([(10, 20), (5, 8), (30, 40)], "lower", [1]),
        ([(10, 20), (12, 22), (30, 40)], "lower", []),
    ],
)
def test_more_at_more_noise_is_a_reason_to_doubt(
    values: list[tuple[float, float]], leaks: str, places: list[int]
) -> None:
    seen = [estimate(*ends) for ends in values]
    assert rising([*seen, None], leaks) == places
    # What is shown falls all the same, so that it can tell nobody.
    assert rising(falling(seen, leaks), leaks) == []


def test_the_kind_is_chosen_by_victims_of_whom_nothing_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The labels of the other half may be anything: they change nothing."""

    class Stop(Exception):
        pass

    def stop(*given: object) -> None:
        raise Stop

    asked: list[int] = []

    def heard(whole: Target, codes: Tensor, labels: Tensor, *more: Any) -> dict[str, Any]:
        asked.append(len(codes))
        return accuracy(whole, codes, labels, *more)

    monkeypatch.setattr(Curve, "untrained", stop)
    monkeypatch.setattr(searching, "accuracy", heard)
    with pytest.raises(Stop):
        calibrate(target(), FEWER, GOAL, Settings(decoder=BRIEF), learn=refusing)
    assert asked == [32, 32], "both kinds, on half of 64 victims"
    assert re.search(r"(gaussian|laplace) noise of [\d.]+, which leaves", capsys.readouterr().err)
