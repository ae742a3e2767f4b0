"""Evaluation: right columns, right floors, the same row twice, nothing done again."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_faces import write_people

from dpsnn import checkpoints
from dpsnn.attacks import AttackModule
from dpsnn.classifier import SplitClassifier
from dpsnn.cli import main
from dpsnn.data import DATASETS, Digits
from dpsnn.data.faces import own_faces
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.evaluation.attackers import judge, load_attacked, overheard, score
from dpsnn.evaluation.classifiers import classifier_row
from dpsnn.evaluation.measure import block_size, dcorr_blocks, standard_error
from dpsnn.evaluation.report import one_per_class, reconstruction_figure, save_figure
from dpsnn.evaluation.tables import as_text, cell
from dpsnn.metrics import mean_image, mse
from dpsnn.networks import SplitNetwork
from dpsnn.studies.titcombe.comparison import of_longest

MODEL_COLUMNS = "Model MeanTrainAcc SETrainAcc MeanValAcc SEValAcc MeanTrainDCorr SETrainDCorr MeanValDCorr SEValDCorr"
ATTACKER_COLUMNS = "Model Attacker MeanValDCorr SEValDCorr ValAccuracy"


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / "results" / "quantitative_measures" / name, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def models(
    place: Path, classifier_file: Callable[..., Path], attacker_file: Callable[..., Path]
) -> Path:
    """An untrained classifier with noise, an attacker of it with other noise, and a validator."""
    target = classifier_file(place / "models", epoch=3, noise_scale=0.5)
    attacker_file(place / "models", target)
    attacker_file(place / "models", target, model_noise=2.0, naive=True)
    classifier_file(place / "models", validator=True)
    return place


def test_tables_have_the_fixed_columns_first_and_floors_beside(models: Path, few: None) -> None:
    assert main(["evaluate_models"]) == 0 and main(["evaluate_attackers"]) == 0
    (row,) = table(models, "model_performances.csv")
    assert list(row)[:9] == MODEL_COLUMNS.split()
    assert {"TestAcc", "NoiseScale", "NopeekWeight", "Seed", "Epsilon"} <= set(row)
    assert row["Model"] == "digits_05noise_00nopeek_epoch=03"
    assert float(row["Epsilon"]) == 2000 and row["NoiseScale"] == "0.5"
    labels = DATASETS["digits"]().tensors("validation")[1]
    assert len(labels) == 147 // 5
    assert float(row["AccFloor"]) == pytest.approx(
        100 * labels.bincount().max().item() / len(labels), rel=1e-5
    )
    rows = table(models, "attack_performances.csv")
    assert list(rows[0])[:5] == ATTACKER_COLUMNS.split()
    expected = "MSE PSNR SSIM MSEFloor SSIMFloor ValAccuracyFloor Adaptive Surrogate NoiseScale"
    assert set(expected.split()) <= set(rows[0])
    by_noise = {row["NoiseScale"]: row for row in rows}
    assert by_noise["0.5"]["Adaptive"] == "True" and by_noise["2"]["Adaptive"] == "False"
    assert float(by_noise["2"]["Epsilon"]) == 500
    assert by_noise["2"]["Attacker"].endswith("_set20noise")


@pytest.mark.slow
def test_rows_are_the_same_twice_and_not_made_again(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models / "results" / "quantitative_measures"

    def run(*options: str) -> tuple[str, ...]:
        assert (
            main(["evaluate_models", *options]) == 0 and main(["evaluate_attackers", *options]) == 0
        )
        return tuple(
            (folder / f"{kind}_performances.csv").read_text() for kind in ("model", "attack")
        )

    first = run()
    capsys.readouterr()
    assert run() == first
    assert "evaluating" not in capsys.readouterr().err, "an up-to-date row was made again"
    assert run("--all") == first
    assert capsys.readouterr().err.count("evaluating") == 3


def test_a_retrained_model_is_evaluated_again(
    models: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate_models"])
    before = table(models, "model_performances.csv")
    path = models / "models" / "classifiers" / "digits_05noise_00nopeek_epoch=03.ckpt"
    stored = checkpoints.read(path, checkpoints.CLASSIFIER)
    path.unlink()
    changed = {name: 0.5 * tensor for name, tensor in stored.weights.items()}
    checkpoints.save(path, checkpoints.CLASSIFIER, stored.arguments, stored.record, changed)
    assert main(["evaluate_models"]) == 0
    (row,) = table(models, "model_performances.csv")
    assert row["Digest"] != before[0]["Digest"] and row["MeanValDCorr"] != before[0]["MeanValDCorr"]
    # Its attackers attacked something else.
    capsys.readouterr()
    assert main(["evaluate_attackers"]) == 2
    assert "attacked another model" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_of_a_training_that_ended_in_another_epoch_are_dropped(
    models: Path, classifier_file: Callable[..., Path]
) -> None:
    classifier_file(models / "models", epoch=1, noise_scale=5.0)
    assert main(["evaluate_models"]) == 0 and main(["evaluate_attackers"]) == 0
    # Studies have tables of their own, one of which is damaged here.
    own = tables.models_table(models / "results").with_name("suppress.csv")
    names = ("digits_05noise_00nopeek", "digits_05noise_00nopeek_epoch=03", "another_epoch=03")
    tables.write(own, [{"Model": name, "Attack": "sign"} for name in names])
    own.with_name("damaged.csv").write_text("Model\n1,2\n")
    assert len(table(models, "attack_performances.csv")) == 2
    (models / "models" / "classifiers" / "digits_05noise_00nopeek_epoch=03.ckpt").unlink()
    classifier_file(models / "models", epoch=7, noise_scale=0.5)
    assert main(["evaluate_models"]) == 0
    assert sorted(row["Model"] for row in table(models, "model_performances.csv")) == [
        "digits_05noise_00nopeek_epoch=07",
        "digits_50noise_00nopeek_epoch=01",
    ]
    assert table(models, "attack_performances.csv") == []
    assert [row["Model"] for row in tables.read(own)] == [names[0], names[2]]


def test_classifier_row_equals_a_direct_computation(
    tmp_path: Path, classifier_file: Callable[..., Path]
) -> None:
    path = classifier_file(tmp_path)
    row = classifier_row(path, "data")
    classifier, _, _ = checkpoints.load_classifier(path)
    pixels, labels = Digits().tensors("test")
    with torch.no_grad():
        right = (classifier(pixels / 255).argmax(1) == labels).double()
    assert row["TestAcc"] == pytest.approx(100 * right.mean().item())
    assert row["SETestAcc"] == pytest.approx(100 * right.std().item() / math.sqrt(250))
    assert row["Epsilon"] == math.inf
    floor = row["ValDCorrFloor"]
    assert isinstance(floor, float) and abs(floor) < 0.3
    assert isinstance(row["MeanValDCorr"], float) and row["MeanValDCorr"] > 0.5


def test_attackers_are_scored_on_what_crosses_the_wire(models: Path) -> None:
    (path,) = (models / "models" / "attackers").glob("*naive*")
    attacked = load_attacked(path, models / "models")
    seen = []
    infer_once = attacked.attack.infer

    class Spy(AttackModule):
        at_once = attacked.attack.at_once

        def infer(self, heard: torch.Tensor) -> torch.Tensor:
            seen.extend(heard)
            return infer_once(heard)

    images = Digits().tensors("scoring")[0] / 255
    _, classes = overheard(attacked._replace(attack=Spy()), attacked.target.encode(images))
    read = attacked.target.answer(torch.cat(seen)[None]).argmax(1)
    assert torch.equal(classes, read), "the server reads the very tensors that are attacked"
    noise = torch.cat(seen) - attacked.target.encode(images)
    assert noise.abs().mean().item() == pytest.approx(
        2.0, rel=0.05
    ), "a naive attacker is scored defended"


def test_scores_at_both_ends() -> None:
    images, labels = (Digits().tensors("scoring")[0] / 255, Digits().tensors("scoring")[1])
    floor = mean_image(Digits().tensors("surrogate")[0], len(images))
    perfect = score(images, images, labels, floor)
    assert perfect["MSE"] == 0 and perfect["SSIM"] == pytest.approx(1)
    assert perfect["MeanValDCorr"] == pytest.approx(1, abs=1e-4)
    assert perfect["MSEFloor"] == pytest.approx(mse(floor, images).mean().item())
    nothing = score(floor.contiguous(), images, labels, floor)
    assert nothing["MSE"] == nothing["MSEFloor"] and nothing["SSIM"] == nothing["SSIMFloor"]
    assert nothing["MeanValDCorr"] == 0 and nothing["ValAccuracy"] is None


def test_the_judge_reports_accuracy_and_confidence() -> None:
    class Certain(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, math.log(3)]]).expand(len(images), -1)

    network = SplitNetwork(torch.nn.Identity(), Certain(), (1, 2, 2), 2)
    labels = torch.tensor([1, 1, 1, 0])
    right, confidence = judge(SplitClassifier(network), torch.zeros(4, 1, 2, 2), labels)
    assert right.tolist() == [100, 100, 100, 0]
    assert confidence.tolist() == pytest.approx([75, 75, 75, 25])


def test_distance_correlation_comes_in_equal_blocks_with_its_floor() -> None:
    torch.manual_seed(0)
    x = torch.randn(1050, 20)
    values, floors = dcorr_blocks(x, x + 0.1 * torch.randn_like(x), block_size(1050))
    assert len(values) == len(floors) == 2 and block_size(1050) == 500 and block_size(147) == 73
    assert values.min() > 0.95 and floors.abs().max() < 0.2
    assert standard_error(torch.tensor([1.0, 3.0])) == pytest.approx(1)
    assert math.isnan(standard_error(torch.tensor([1.0])))


def test_plot_attack_draws_and_names_its_file(
    models: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    attackers = [
        p.name.removesuffix(".ckpt") for p in (models / "models" / "attackers").glob("*.ckpt")
    ]
    words = ["plot_attack", "--model", "digits_05noise_00nopeek", "--savepath", "deep/figure.png"]
    assert main([*words, "--attacker", *attackers]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "deep/figure.png"
    first = Path("deep/figure.png").read_bytes()
    assert first.startswith(b"\x89PNG") and len(first) > 10_000
    assert main([*words, "--attacker", *attackers]) == 0
    assert Path("deep/figure.png").read_bytes() == first, "a figure is the same twice"


def test_figures_show_the_pictures(tmp_path: Path) -> None:
    originals = torch.rand(3, 1, 6, 6)
    figure = reconstruction_figure(originals, [("guess", 1 - originals)], "title")
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert len(shown) == 6
    for column in range(3):
        torch.testing.assert_close(torch.as_tensor(shown[column]), originals[column, 0])
        torch.testing.assert_close(torch.as_tensor(shown[3 + column]), 1 - originals[column, 0])
    assert save_figure(figure, tmp_path / "new" / "f.png").exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["f.png"]


def test_one_picture_per_class() -> None:
    assert one_per_class(torch.tensor([2, 0, 2, 1, 0])) == [1, 3, 0]


def test_text_tables_are_aligned() -> None:
    text = as_text([{"a": "x", "b": 12.34}, {"a": "longer", "b": 0.012345}], {"a": "A", "b": "B"})
    assert text.splitlines() == [
        f"A{13 * chr(32)}B",
        "------  -------",
        "x          12.3",
        "longer  0.01235",
    ]


# ---------------------------------------------------------------- few images, tiny ones, and no numbers

OF_PAIRS = {"RelativeL2Shuffled", "SSIMShuffled", "SSIM2Shuffled"}
JUDGED = {
    "ValAccuracy",
    "SEValAccuracy",
    "ValConfidence",
    "SEValConfidence",
    "ValAccuracyShuffled",
    "ValConfidenceShuffled",
    "ValConfidenceFloor",
    "ValAccuracyFloor",
    "ValAccuracyCeiling",
    "ValConfidenceCeiling",
}


@pytest.mark.parametrize("side", [5, 6])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_what_few_or_tiny_images_leave_undefined_is_empty_and_the_rest_finite(
    count: int, side: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, side, side, generator=generator)
    guesses = (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    row = score(guesses, images, torch.arange(count) % 2, torch.full_like(images, 0.5))
    empty = {name for name, value in row.items() if cell(value) == ""}
    expected = {*JUDGED, *(name for name in row if name.endswith("ClassFloor"))}
    if count < 4:
        expected |= {"MeanValDCorr", "DCorrFloor", "DCorrN"}
    if count < 8:
        expected |= {"SEValDCorr"}  # of one block
    if count < 2:
        expected |= {"SEMSE", "SESSIM", "SESSIM2", "SERelativeL2", *OF_PAIRS}
    # Sides shorter than the window.
    expected |= {"SSIMGaussian", "SESSIMGaussian", "SSIMGaussianFloor"}
    if side < 6:
        expected |= {name for name in row if "SSIM" in name}
    assert empty == expected
    assert all(math.isfinite(float(cell(row[name]))) for name in row.keys() - empty)
    assert row["MSE"] == pytest.approx(((guesses - images) ** 2).mean().item())


def test_too_few_images_for_a_correlation_have_none(
    place: Path, offer: Callable[..., None], classifier_file: Callable[..., Path]
) -> None:
    write_people(place / "people", people=2, pictures=4)
    offer("people", own_faces("people"))
    path = classifier_file(
        place / "models", dataset="people", network="softmax_regression", batch_size=2
    )
    assert len(DATASETS["people"]("data").tensors("validation")[1]) < 4
    assert main(["evaluate_models", "--model", path.name]) == 0
    (row,) = table(place, "model_performances.csv")
    for name in ("MeanValDCorr", "SEValDCorr", "ValDCorrFloor", "DCorrN"):
        assert row[name] == "", name
    assert 0 <= float(row["MeanValAcc"]) <= 100
    assert -1 <= float(row["MeanTrainDCorr"]) <= 1 and row["SETrainDCorr"] == ""


def test_no_value_of_a_table_is_made_of_what_is_not_finite(
    tmp_path: Path, classifier_file: Callable[..., Path]
) -> None:
    # Finite weights, but so large that the answers are not.
    path = classifier_file(tmp_path)
    stored = checkpoints.read(path, checkpoints.CLASSIFIER)
    path.unlink()
    weights = {
        k: v * 1e38 if v.is_floating_point() and "server" in k else v
        for k, v in stored.weights.items()
    }
    checkpoints.save(path, checkpoints.CLASSIFIER, stored.arguments, stored.record, weights)
    with pytest.raises(UsageError, match=f"{stored.stem}.*not finite"):
        classifier_row(path, "data")


def test_a_judge_that_gives_no_numbers_judges_nothing() -> None:
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 2), math.nan)

    network = SplitNetwork(torch.nn.Identity(), Broken(), (1, 2, 2), 2)
    with pytest.raises(UsageError, match="validator answers holds values that are not finite"):
        judge(SplitClassifier(network), torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))


@pytest.mark.slow
def test_a_row_under_the_name_of_then_is_replaced_and_not_doubled(
    place: Path, classifier_file: Callable[..., Path], attacker_file: Callable[..., Path]
) -> None:
    target = classifier_file(place / "models", epoch=3, max_epochs=20, batch_size=32)
    attacker = attacker_file(place / "models", target, max_epochs=1)
    other = attacker_file(place / "models", target, naive=True, max_epochs=1)
    classifier_file(place / "models", validator=True)
    assert main(["evaluate_models"]) == 0 and main(["evaluate_attackers"]) == 0
    models = tables.models_table("results")
    attacks = tables.attackers_table("results")
    now, (mine, naive) = tables.read(models), tables.read(attacks)
    then = "digits_00noise_00nopeek_epoch=05"
    # Of the same model in the same table, when names did not say so much; one was trained otherwise.
    tables.upsert(models, [{**now[0], "Model": then}], tables.CLASSIFIER_KEY)
    default = {**now[0], "Model": "digits_00noise_00nopeek_epoch=07", "BatchSize": 128}
    tables.upsert(models, [default], tables.CLASSIFIER_KEY)
    of_then = {**mine, "Attacker": f"digits_attacker_model<{target.stem}>"}
    lost = {**mine, "Model": then, "Attacker": f"digits_attacker_model<{then}>"}
    kept = {
        **naive,
        "Attacker": f"digits_attacker_naive_model<{target.stem}>",
        "MaxEpochs": 20,
    }
    tables.upsert(attacks, [of_then, lost, kept], tables.ATTACKER_KEY)
    assert len(tables.read(models)) == 3 and len(tables.read(attacks)) == 5
    assert main(["evaluate_models", "--all"]) == 0 and main(["evaluate_attackers", "--all"]) == 0
    assert [row["Model"] for row in tables.read(models)] == [target.stem, default["Model"]]
    assert sorted(row["Attacker"] for row in tables.read(attacks)) == sorted(
        [attacker.stem, other.stem, kept["Attacker"]]
    )


def test_texts_and_figures_show_the_longest_of_trainings(tmp_path: Path) -> None:
    names = {"": 10, "_1epochs": 1, "_20epochs_0005rate": 20, "_seed1": 10}
    models = [
        {"Model": f"digits_05noise_00nopeek{name}_epoch=00", "MaxEpochs": epochs}
        for name, epochs in names.items()
    ]
    models[3]["Model"] = "digits_05noise_00nopeek_seed1_epoch=00"
    cells = [{key: str(value) for key, value in row.items()} for row in models]
    shown = ["digits_05noise_00nopeek_20epochs_0005rate_epoch=00", models[3]["Model"]]
    assert [row["Model"] for row in of_longest(cells, cells)] == shown
