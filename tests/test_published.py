"""The paper's own protocol: its figures, its network, its statistic, its commands; and the ledger that compares."""

import csv
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import dcor_value

from dpsnn.building import build_classifier
from dpsnn.cli import main
from dpsnn.data import Digits
from dpsnn.evaluation import tables
from dpsnn.networks import titcombe, titcombe_softmax
from dpsnn.runner.ledger import write_ledger
from dpsnn.runner.progress import GroupFailed
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.titcombe import (  # noqa: F401  before a test changes the rows that it reads
    ledger,
)
from dpsnn.studies.titcombe import published as module
from dpsnn.studies.titcombe.measures import BATCH, batch_dcorr
from dpsnn.studies.titcombe.published import CONTROL, PUBLISHED, Published, published_experiments
from dpsnn.training import fit

ROW = Published(0.5, 0.1)


def test_the_published_table_is_whole_and_plausible() -> None:
    assert len(PUBLISHED) == 20 == len({row[:2] for row in PUBLISHED})
    combined = [row for row in PUBLISHED if row.noise_scale and row.nopeek_weight]
    assert len(combined) == 13 == sum(row.dcorr is not None for row in PUBLISHED)
    assert sum(row.reconstruction_dcorr is not None for row in PUBLISHED) == 17
    for row in PUBLISHED:
        assert (row.dcorr is None) == (row.se_dcorr is None) == (row.train_accuracy is None)
        assert (row.reconstruction_dcorr is None) == (row.recognised is None)
        percents = (row.train_accuracy, row.val_accuracy, row.recognised)
        shares = (row.dcorr, row.reconstruction_dcorr)
        assert all(value is None or 93 < value < 100 for value in percents)
        assert all(value is None or 0.4 < value < 1 for value in shares)
    for row in combined:
        assert row.train_accuracy and row.val_accuracy and row.train_accuracy > row.val_accuracy


# ---------------------------------------------------------------- network


def test_the_softmax_network_gives_the_probabilities_of_the_plain_one() -> None:
    plain, published = titcombe((1, 28, 28), 10, 0.1, 0.3), titcombe_softmax(
        (1, 28, 28), 10, 0.1, 0.3
    )
    published.load_state_dict(plain.state_dict())
    smashed = 2 * torch.rand(6, 500) - 1
    probabilities = published.server(smashed)
    assert torch.allclose(probabilities.sum(1), torch.ones(6))
    assert torch.equal(probabilities, plain.server(smashed).softmax(1))
    images = torch.rand(6, 1, 28, 28)
    assert torch.equal(published.client(images), plain.client(images))
    assert published.bound == plain.bound and published.cut_shape == plain.cut_shape


def test_probabilities_stay_float32_in_bfloat16_training() -> None:
    network = titcombe_softmax((1, 28, 28), 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.server(torch.rand(2, 500)).dtype == torch.float32


# ---------------------------------------------------------------- statistic


@pytest.mark.parametrize("size", [8, BATCH])
def test_the_statistic_is_the_mean_of_dcor_over_full_batches(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(70, 1, 4, 4, generator=generator)
    y = torch.tanh(x.flatten(1)[:, :5] + 0.3 * torch.randn(70, 5, generator=generator))
    values, floors = batch_dcorr(x, y, size)
    expected = []
    for start in range(0, 70 - size + 1, size):
        a, b = (t[start : start + size].flatten(1).double().numpy() for t in (x, y))
        expected.append(dcor_value("distance_correlation", a, b, 2))
    assert len(values) == len(floors) == len(expected) == 70 // size
    assert values.numpy() == pytest.approx(expected, abs=1e-5)
    assert 0 < floors.mean() < values.mean(), "small batches have a floor well above 0"


def test_the_statistic_misses_what_is_not_linear() -> None:
    x = torch.linspace(-1, 1, 33).unsqueeze(1)
    values, _ = batch_dcorr(x, x**2, 33)
    assert values.item() < 0.01


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="20 samples make no batch of 32"):
        batch_dcorr(torch.rand(20, 3), torch.rand(20, 3))


# ---------------------------------------------------------------- protocol


def test_the_protocol_is_that_of_the_paper() -> None:
    experiments = published_experiments(ClassifierSpec(dataset="mnist"), AttackerSpec())
    defences = [(e.classifier.noise_scale, e.classifier.nopeek_weight) for e in experiments]
    clean = [(1.0, 0.1), (1.0, 0.25), (1.0, 0.5)]
    assert defences == [*(row[:2] for row in PUBLISHED), CONTROL, CONTROL, *clean]
    shuffled, ours = (e.classifier for e in experiments[-5:-3])
    assert shuffled.constant_rate and not ours.constant_rate
    assert not shuffled.fixed_order and not ours.fixed_order
    for experiment in experiments:
        spec = experiment.classifier
        assert (spec.network, spec.learning_rate) == ("titcombe_softmax", 1e-4)
        assert (spec.constant_rate and spec.fixed_order) == (experiment not in experiments[-5:-3])
        assert spec.nopeek_clean == (experiment in experiments[-3:])
        expected = (32, 2) if spec.nopeek_weight else (128, 1)
        assert (spec.batch_size, spec.nopeek_exponent) == expected
        (attacker,) = experiment.attackers
        assert (attacker.decoder, attacker.naive, attacker.batch_size) == ("linear", True, 128)


@pytest.mark.slow
def test_dry_run_prints_the_protocol_as_commands(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["published", "--dataset", "mnist", "--seeds", "0", "4", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not list(place.iterdir()), "a dry run writes nothing"
    assert len(lines) == 1 + 2 * 50 + 2
    assert "--validator" in lines[0]
    for line in lines:
        _, script, *options = shlex.split(line)
        given = dict(zip(options, options[1:]))
        assert (given["--models_dir"], given["--results_dir"]) == (
            "models/published",
            "results/published",
        )
        if "train_model" in script and "--validator" not in options:
            assert given["--network"] == "titcombe_softmax"
            assert given["--learning_rate"] == "0.0001"
            nopeek = "--nopeek_weight" in given
            assert (given.get("--batch_size") == "32") == nopeek
            assert (given.get("--nopeek_exponent") == "2.0") == nopeek
        if "train_attacker" in script:
            assert (given["--decoder"], given["--batch_size"]) == ("linear", "128")
            assert "--naive" in options and "_titcombe_softmax" in given["--model"]
            assert ("_exp2_" in given["--model"]) == ("_00nopeek" not in given["--model"])
        assert main([Path(script).stem, *options, "--no_such_option"]) == 2
        assert "no_such_option" in capsys.readouterr().err
    assert [line.count("--seed 4") for line in lines] == [0] * 51 + [1] * 50 + [0] * 2


@pytest.mark.parametrize(
    "option", ["network", "learning_rate", "batch_size", "nopeek_exponent", "surrogate"]
)
def test_what_the_protocol_fixes_is_no_option(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["published", f"--{option}", "1"]) == 2
    assert f"unrecognized arguments: --{option}" in capsys.readouterr().err


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_rows_from_end_to_end_and_again_without_work(
    place: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUBLISHED", (Published(0, 0), ROW))
    words = ["published", "--max_epochs", "1"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    table = Path("results/published/quantitative_measures/published.csv")
    assert out.splitlines()[-1] == str(table) and err.count("as published") == 2
    plain, both = rows(table)
    assert (
        plain["Model"]
        == "digits_00noise_00nopeek_titcombe_softmax_constantrate_fixedorder_1epochs_00001rate_epoch=00"
    )
    assert (
        both["Model"]
        == "digits_05noise_01nopeek_exp2_titcombe_softmax_constantrate_fixedorder_1epochs_00001rate"
        "_32batch_epoch=00"
    )
    for row in (plain, both):
        assert 0 < float(row["ReconstructionDCorr"]) <= 1 and float(row["MSE"]) > 0
        assert 0 < float(row["ActivationDCorrFloor"]) < float(row["ActivationDCorr"]) <= 1
        assert float(row["SESmashedDCorr"]) > 0 and row["DCorrN"] == "32"
        assert "_naive_linear_1epochs_128batch_model<" in row["Attacker"]
    assert plain["ActivationDCorr"] == plain["SmashedDCorr"]
    assert float(both["SmashedDCorr"]) < float(both["ActivationDCorr"])
    honest, _ = rows(table.with_name("model_performances.csv"))
    assert [plain[c] for c in ("MeanTrainAcc", "MeanValAcc", "Digest")] == [
        honest[c] for c in ("MeanTrainAcc", "MeanValAcc", "Digest")
    ]
    assert not list(place.glob("models/classifiers/*")), "nothing mixes with honest models"

    written = table.read_bytes()
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert table.read_bytes() == written and out.splitlines()[-1] == str(table)
    assert not any(word in err for word in ("training", "evaluating", "measuring"))

    # A row of other weights is measured anew.
    tables.upsert(table, [{**plain, "AttackerDigest": "another"}], tables.CLASSIFIER_KEY)
    assert main(words) == 0
    assert capsys.readouterr().err.count("as published") == 1
    assert table.read_bytes() == written

    assert main(["ledger", "--dataset", "digits"]) == 0
    assert capsys.readouterr().out == "docs/reproduction.md\n"
    text = Path("docs/reproduction.md").read_text(encoding="utf-8")
    assert (
        "a rehearsal, no reproduction" in text
        and "Epochs of ours by the protocol: 1, not 10." in text
    )
    assert f"| {float(both['ActivationDCorr']):.3f} ± " in text


def test_a_failed_member_costs_no_row_of_the_others(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise GroupFailed("1 of 3 failed: x (out of memory)")

    measured: list[Any] = []
    monkeypatch.setattr(module.run, "run", failing)
    monkeypatch.setattr(module, "measure", lambda *given: measured.append(given))
    assert main(["published"]) == 1
    assert capsys.readouterr().err == "dpsnn: 1 of 3 failed: x (out of memory)\n"
    assert len(measured) == 1


@pytest.mark.slow
def test_the_double_softmax_learns_slower() -> None:
    accuracy = {
        name: fit(
            build_classifier(ClassifierSpec(network=name, learning_rate=1e-4)),
            Digits(),
            monitor="val/accuracy",
            mode="max",
            max_epochs=2,
            seed=0,
        ).value
        for name in ("titcombe", "titcombe_softmax")
    }
    assert accuracy["titcombe_softmax"] < accuracy["titcombe"]


# ---------------------------------------------------------------- ledger


def protocol_row(noise: float, weight: float, dcorr: float, **more: object) -> dict[str, object]:
    return {
        "Model": f"m{noise}_{weight}",
        "NoiseScale": noise,
        "NopeekWeight": weight,
        "MeanTrainAcc": 99.5,
        "MeanValAcc": 97.74,
        "SEValAcc": 0.15,
        "TestAcc": 97.6,
        "SETestAcc": 0.15,
        "AccFloor": 10.9,
        "ActivationDCorr": dcorr,
        "SEActivationDCorr": 0.003,
        "ActivationDCorrFloor": 0.31,
        "SmashedDCorr": dcorr - 0.1,
        "SESmashedDCorr": 0.003,
        "SmashedDCorrFloor": 0.35,
        "Attacker": f"a{noise}_{weight}",
        "ReconstructionDCorr": 0.85,
        "SEReconstructionDCorr": 0.003,
        "ReconstructionDCorrFloor": 0.3,
        "MSE": 0.03,
        "SEMSE": 0.0001,
        "MSEFloor": 0.0678,
        "ValAccuracy": 95.0,
        "SEValAccuracy": 0.3,
        "ValAccuracyFloor": 11.0,
        "DCorrN": 32,
        "Dataset": "mnist",
        "Seed": 0,
        "MaxEpochs": 10,
        "ConstantRate": True,
        "FixedOrder": True,
        **more,
    }


def sound_row(noise: float, weight: float, **more: object) -> dict[str, object]:
    return {
        "Model": f"s{noise}_{weight}",
        "TestAcc": 98.9,
        "SETestAcc": 0.1,
        "MeanValDCorr": 0.6,
        "SEValDCorr": 0.003,
        "ValDCorrFloor": 0.002,
        "AccFloor": 10.9,
        "NoiseScale": noise,
        "NopeekWeight": weight,
        "GaussianStd": 0,
        "NopeekExponent": 1 if weight else None,
        "Epsilon": 1000 / noise if noise else math.inf,
        "Dataset": "mnist",
        "Network": "titcombe",
        "BatchSize": 128,
        "LearningRate": 0.001,
        "Seed": 0,
        **more,
    }


def attack_row(model: str, mse: float, **more: object) -> dict[str, object]:
    return {
        "Model": model,
        "Attacker": f"{model} {mse} {sorted(more.items())}",
        "MSE": mse,
        "SEMSE": 0.0001,
        "MSEFloor": 0.0678,
        "SSIM": 1 - 10 * mse,
        "SESSIM": 0.001,
        "SSIMFloor": 0.332,
        "ValAccuracy": 97.0,
        "SEValAccuracy": 0.2,
        "ValAccuracyFloor": 11.0,
        "Adaptive": True,
        "Decoder": "conv",
        "Surrogate": "mnist",
        "DataPct": 100,
        "Queries": 1,
        "NoiseScale": 0.5,
        "TrainNoiseScale": 0.5,
        "Dataset": "mnist",
        "Seed": 0,
        **more,
    }


@pytest.fixture
def tables_of_both(place: Path) -> Path:
    """(0.5, 0.1) within the tolerance on both tensors, (0.5, 0.25) beyond it on both, all others missing."""
    own = place / "results" / "published"
    sound = place / "results"
    tables.write(
        tables.published_table(own),
        [
            protocol_row(0.5, 0.1, 0.605),
            protocol_row(0.5, 0.25, 0.742, MaxEpochs=4),
            protocol_row(0.5, 0.25, 0.999, Model="other seed", Seed=1),
            protocol_row(1.0, 0.1, 0.575, Dataset="digits"),
            protocol_row(0.5, 0.25, 0.502, Model="clean", NopeekClean=True),
            protocol_row(0.1, 0.1, 0.571, Model="shuffled", FixedOrder=False),
            protocol_row(0.1, 0.1, 0.631, Model="ours", FixedOrder=False, ConstantRate=False),
        ],
    )
    wire = {"Adaptive": False, "Decoder": "linear", "Attacker": "a0.5_0.1"}
    tables.write(tables.attackers_table(own), [attack_row("m0.5_0.1", 0.06, **wire)])
    tables.write(
        tables.models_table(sound),
        [
            sound_row(0.5, 0.1),
            sound_row(0.5, 0.1, Model="published network", Network="titcombe_softmax", TestAcc=1),
            sound_row(0.5, 0.1, Model="other exponent", NopeekExponent=2, TestAcc=2),
            sound_row(0.5, 0.1, Model="other batch", BatchSize=32, TestAcc=3),
        ],
    )
    tables.write(
        tables.attackers_table(sound),
        [
            attack_row("s0.5_0.1", 0.02),
            attack_row("s0.5_0.1", 0.05, Adaptive=False, ValAccuracy=98.5),
            attack_row("s0.5_0.1", 0.036, Decoder="linear"),
            attack_row("s0.5_0.1", 0.001, Queries=64),
            attack_row("s0.5_0.1", 0.002, NoiseScale=0.0),
            attack_row("s0.5_0.1", 0.003, DataPct=50),
        ],
    )
    return place


def test_the_ledger_says_what_the_numbers_show(
    tables_of_both: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger"]) == 0
    assert capsys.readouterr().out == "docs/reproduction.md\n"
    text = (tables_of_both / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert "Generated by `python scripts/ledger.py`; do not edit" in text
    assert "rehearsal" not in text
    lines = text.splitlines()

    assert (
        "- DCorr at the cut, 13 published, 2 run: within 0.08: 1 on the activation, 1 on the wire, 1 on at least one."
        " With NoPeek before the noise 1 of 1 others are, on the activation." in lines
    )
    assert "- DCorr of reconstructions, 17 published, 2 run: within 0.08: 2." in lines
    gaps = "-0.02 to +0.22 points, +0.10 on average (2 rows)"
    assert f"- Validation accuracy, protocol minus paper: {gaps}." in lines

    (met,) = (line for line in lines if line.startswith("- **Noise 0.5, NoPeek 0.1.**"))
    for sentence in (
        "DCorr at the cut is within 0.08 (+0.080 on the activation, -0.020 on the wire).",
        "Adding noise 0.5 lowers DCorr at the cut from 0.605 to 0.505.",
        "(d, f) Shuffled pairs alone give 0.310 of 0.605 at N = 32, on the wire 0.350 of 0.505; soundly"
        " the wire has 0.600 over a floor of 0.002.",
        "Validation accuracy is +0.22 points from the paper's.",
        "(c) Sound training changes it by +1.30 points on the test images",
        "(a) The protocol's decoder has MSE 0.0300 on clean activations, 0.0600 on the wire; an adaptive attacker",
        "(b) Soundly a linear map has 1.8 times the MSE of the adaptive one.",
    ):
        assert sentence in met
    (beyond,) = (line for line in lines if line.startswith("- **Noise 0.5, NoPeek 0.25.**"))
    assert "Epochs of ours by the protocol: 4, not 10." in beyond
    assert "beyond 0.08 on both tensors (+0.300 on the activation, +0.200 on the wire)." in beyond
    assert (
        "NoPeek before the noise, as the paper's may have been, turns DCorr of the activation from 0.742 into 0.502,"
        " within 0.08 of the paper's (+0.060)." in beyond
    )
    assert beyond.endswith("Not run soundly.") and "(b)" not in beyond and "(a)" not in beyond
    (missing,) = (line for line in lines if line.startswith("- **Noise 1, NoPeek 0.1.**"))
    assert missing.endswith("Not run by the published protocol. Not run soundly.")

    ways = [line.split(" | ") for line in lines if " step size, " in line and line[0] == "|"]
    assert [(way[0], way[1]) for way in ways] == [
        ("| constant step size, fixed order (protocol)", "not run"),
        ("| constant step size, shuffled", "0.571 ± 0.003"),
        ("| decaying step size, shuffled", "0.631 ± 0.003"),
    ]

    (sound,) = (line for line in lines if line.startswith("| 0.5 | 0.1 | 2,000 |"))
    assert sound.split(" | ")[3:] == [
        "0.0200 ± 0.0001 (adaptive)",
        "0.800 ± 0.001 (adaptive)",
        "98.50 ± 0.20 (naive) |",
    ]
    assert "| *floor* |  | 0 | 0.0678 | 0.332 | 11.00 |" in lines
    accuracies = (
        "| 0.5 | 0.1 | 99.45 | 99.50 | 97.52 | 97.74 ± 0.15 | 97.60 ± 0.15 | 98.90 ± 0.10 |"
    )
    assert accuracies in lines
    assert all(
        sum(line.startswith(f"| {row.noise_scale:g} | {row.nopeek_weight:g} |") for line in lines)
        == 4 + (row.noise_scale == 1 and row.dcorr is not None)
        for row in PUBLISHED
    )


def test_the_edge_of_the_tolerance_counts_as_met_and_a_hair_more_does_not(place: Path) -> None:
    def summary(dcorr: float) -> str:
        own = place / "published"
        tables.write(tables.published_table(own), [protocol_row(0.5, 0.5, dcorr)])
        written = write_ledger("mnist", place / "results", place / "out.md", published_dir=own)
        return written.read_text("utf-8")

    assert "within 0.08: 1 on the activation, 1 on the wire, 1 on at least one" in summary(0.517)
    text = summary(0.518)
    assert "within 0.08: 0 on the activation, 1 on the wire, 1 on at least one" in text
    assert "DCorr at the cut is within 0.08 on the wire only (+0.081 on the activation," in text
    assert "within 0.08: 1 on the activation, 0 on the wire, 1 on at least one" in summary(0.42)


def test_the_ledger_of_honest_rows_alone(place: Path) -> None:
    tables.write(tables.models_table("results"), [sound_row(0.0, 0.0)])
    assert main(["ledger", "--output", "here.md"]) == 0
    text = (place / "here.md").read_text(encoding="utf-8")
    assert "| 0 | 0 | – | not run | – | not run | not run | 98.90 ± 0.10 |" in text
    assert "protocol minus paper: not run." in text
    assert sorted(path.name for path in place.iterdir()) == ["here.md", "results"]


def private_row(noise: float, dataset: str, **more: object) -> dict[str, object]:
    return {
        "Model": f"{dataset} {noise}",
        "MeanTrainAcc": 40.0,
        "MeanValAcc": 30.0,
        "SEValAcc": 1.5,
        "TestAcc": 29.0,
        "SETestAcc": 1.4,
        "AccFloor": 8.0,
        "NoiseScale": 0,
        "NopeekWeight": 0,
        "DPNoiseMultiplier": noise or None,
        "DPEpsilon": 3.456 if noise else None,
        "Dataset": dataset,
        "Network": "mobile",
        "Seed": 0,
        **more,
    }


def test_the_ledger_of_omniglot(tables_of_both: Path) -> None:
    folder = tables_of_both / "results"
    alone = write_ledger("mnist", folder, tables_of_both / "out.md")
    assert "Not run: `./main.sh omniglot`." in alone.read_text("utf-8")
    fair, overlap = "omniglot", "omniglot_overlap"
    models = [
        private_row(0.0, fair, TestAcc=71.0),
        private_row(0.7, fair),
        private_row(0.7, overlap),
        private_row(0.5, overlap, MeanTrainAcc=53.1),
        private_row(0.3, fair, NoiseScale=1.0, TestAcc=1.0),
    ]
    tables.upsert(tables.models_table(folder), models, tables.CLASSIFIER_KEY)
    attacks = [
        attack_row(f"{fair} 0.0", 0.01, Dataset=fair, Attack="ridge", Decoder=""),
        attack_row(f"{fair} 0.7", 0.02, Dataset=fair, Augment="none"),
        attack_row(f"{fair} 0.7", 0.03, Dataset=fair, Decoder="deconv"),
        attack_row(f"{overlap} 0.7", 0.04, Dataset=overlap, Decoder="deconv"),
        attack_row(f"{overlap} 0.5", 0.05, Dataset=overlap, Augment=""),
    ]
    tables.upsert(tables.attackers_table(folder), attacks, tables.ATTACKER_KEY)
    lines = write_ledger("mnist", folder, alone).read_text("utf-8").split("\n")
    assert (
        "| 0.7 | 4 | 4.02 | 4.64 | 3.46 | 37 | 40.00 | 30.00 ± 1.50 | 40.00 | 30.00 ± 1.50 | 29.00 ± 1.40 |"
        in lines
    )
    assert lines.count("| *floor* |  |  |  |  |  |  |  |  |  | 8.00 |") == 1
    (headings,) = (line for line in lines if line.startswith("| multiplier | MSE, protocol"))
    assert headings.count("our decoder † |") == 2 and "MSE, protocol, our decoder †" in headings
    assert lines.count("†: by an earlier version of our decoder, which saw the wire as it is.") == 1
    (leak,) = (
        line for line in lines if line.startswith("| 0.7 | 0.0400 ± 0.0001 | 0.600 ± 0.001 |")
    )
    assert leak.split(" | ")[3:] == [
        *["not run"] * 4,
        *(
            "0.0300 ± 0.0001",
            "0.700 ± 0.001",
            "0.0200 ± 0.0001",
            "0.800 ± 0.001",
            "not run",
            "not run |",
        ),
    ]
    assert (
        sum(
            line.startswith("| *floor: mean image* | 0.0678 | 0.332 | 0.0678 | 0.332 | not run")
            for line in lines
        )
        == 1
    )
    (met,) = (line for line in lines if line.startswith("- **Multiplier 0.7.**"))
    for sentence in (
        "Training accuracy is within 8 points of the paper's (+3.0).",
        "(j) With the images that were trained on, the paper's 4 is 4.64;",
        "(m) Fairly: 40.0 % of the training images, 29.0 % of the test images.",
        "An image at inference, by the attacker that comes closest: MSE 0.0200, 0.0100 without DP-SGD,",
        " 0.0678 by guessing.",
    ):
        assert sentence in met
    (beyond,) = (line for line in lines if line.startswith("- **Multiplier 0.5.**"))
    assert "beyond 8 points of the paper's (+8.1)" in beyond and "(m)" not in beyond
    assert "- **Multiplier 0.3.** Not run." in lines, "noise on the wire makes another study"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "run ./main.sh published --dataset mnist and ./main.sh all --dataset mnist first"),
        (["--dataset", "nosuch"], "unknown dataset 'nosuch'"),
    ],
)
def test_nothing_to_compare_is_one_line(
    words: list[str], part: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
    assert not list(place.iterdir())


def test_a_cell_that_is_no_number_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.write(tables.models_table("results"), [sound_row(0.0, 0.0, TestAcc="much")])
    assert main(["ledger"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "column TestAcc has 'much', no number" in line
