"""The main claims on the real MNIST, with short trainings, through the command line."""

import csv
from pathlib import Path

import pytest

from dpsnn.cli import main

PLAIN, NOISY = "mnist_00noise_00nopeek_1epochs", "mnist_10noise_00nopeek_1epochs"


@pytest.mark.slow(minutes=3)
def test_plain_leaks_noise_hides_from_the_naive_and_less_from_the_adaptive(
    place: Path, mirror: Path
) -> None:
    mnist = ["--dataset", "mnist", "--max_epochs", "1"]
    # The judge sees what it was not trained on, and is surer of it after twice as long.
    assert main(["train_model", "--dataset", "mnist", "--max_epochs", "2", "--validator"]) == 0
    assert main(["train_model", *mnist]) == 0
    assert main(["train_model", *mnist, "--noise_scale", "1.0"]) == 0
    short = ["--max_epochs", "6", "--learning_rate", "0.003", "--augment", "none"]
    for options in (["--model", PLAIN], ["--model", NOISY], ["--model", NOISY, "--naive"]):
        assert main(["train_attacker", *options, *short]) == 0
    assert main(["train_attacker", "--model", PLAIN, "--attack", "ridge"]) == 0
    assert main(["evaluate_models"]) == 0 and main(["evaluate_attackers"]) == 0
    folder = place / "results" / "quantitative_measures"
    with open(folder / "model_performances.csv", newline="") as file:
        accuracy = {
            r["Model"].split("_epoch")[0]: float(r["TestAcc"]) for r in csv.DictReader(file)
        }
    assert accuracy[PLAIN] >= 98 and accuracy[NOISY] >= 97
    with open(folder / "attack_performances.csv", newline="") as file:
        attacks = {
            (r["Model"].split("_epoch")[0], r["Adaptive"], r["Attack"]): r
            for r in csv.DictReader(file)
        }
    conv, ridge = attacks[PLAIN, "True", "decoder"], attacks[PLAIN, "True", "ridge"]
    assert float(conv["MSEFloor"]) == pytest.approx(0.0678, abs=5e-4)
    assert float(conv["SSIM"]) >= 0.85 and float(conv["MSE"]) <= 0.015
    assert float(ridge["MSE"]) <= 0.015, "the best linear map, of what the tanh bent straightened"
    assert float(conv["ValAccuracy"]) > 95 > 2 * float(conv["ValAccuracyFloor"])
    adaptive, naive = attacks[NOISY, "True", "decoder"], attacks[NOISY, "False", "decoder"]
    assert float(adaptive["MSE"]) <= 0.6 * float(naive["MSE"])
