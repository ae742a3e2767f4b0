"""The study of faces: its targets and their privacy, the scores of what is rebuilt, the whole in small."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_faces import write_people
from torch import Tensor
from unsteady import Unsteady

from dpsnn import building
from dpsnn.attacks import MIFace
from dpsnn.checkpoints import classifier_name
from dpsnn.classifier import SplitClassifier
from dpsnn.cli import main
from dpsnn.data import FacesAll, FacesOthers, FacesTuning
from dpsnn.data.faces import Faces, own_faces
from dpsnn.errors import Diverged, UsageError
from dpsnn.evaluation import tables
from dpsnn.metrics import mse, ssim
from dpsnn.metrics.privacy import dp_sgd_epsilon
from dpsnn.networks import NETWORKS, SplitNetwork
from dpsnn.runner.engines import Where
from dpsnn.runner.train import Folders
from dpsnn.runner.tuning import KEY, tuned, tuning_table
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.faces import study
from dpsnn.studies.faces.ledger import section
from dpsnn.studies.faces.measures import (
    accounted,
    contrasted,
    identified,
    likeness,
    wilson,
)
from dpsnn.studies.faces.study import (
    PUBLISHED,
    by_person_table,
    faces_experiments,
    judges,
)

# ---------------------------------------------------------------- targets


def test_the_published_epsilon_is_reproduced() -> None:
    row = PUBLISHED[1]
    history = [(row.noise_multiplier, 40 / 400, 100)]
    assert row.epsilon is not None
    assert dp_sgd_epsilon(history, 1e-5, "rdp") == pytest.approx(row.epsilon, abs=0.3)
    found = accounted(0.5, 0.1, 100, 1e-5)
    assert found["DPEpsilon_rdp"] == dp_sgd_epsilon(history, 1e-5, "rdp")
    assert found["DPEpsilon_prv"] == pytest.approx(31.4, abs=0.3), "tighter"
    assert found["DPEpsilon_classic"] > found["DPEpsilon_rdp"] > found["DPEpsilon_prv"]


def test_the_published_targets_are_those_of_the_tutorial() -> None:
    plain, private = (e.classifier for e in faces_experiments(SPEC, AttackerSpec())[:2])
    for spec in (plain, private):
        assert (spec.dataset, spec.network) == ("faces_all", "softmax_regression")
        assert (spec.max_epochs, spec.sgd_momentum, spec.precision) == (10, 0.9, "32")
        assert spec.constant_rate
    assert (plain.learning_rate, plain.batch_size, plain.private) == (0.005, 4, False)
    assert (private.learning_rate, private.batch_size) == (0.05, 40)
    assert (private.dp_noise_multiplier, private.dp_max_grad_norm, private.dp_delta) == (
        0.5,
        1,
        1e-5,
    )


SPEC = ClassifierSpec(dataset="faces")


def test_fair_targets_differ_in_nothing_but_their_noise() -> None:
    experiments = faces_experiments(SPEC, AttackerSpec())[2:]
    assert len(experiments) == 3 * 6 and all(e.attackers == () for e in experiments)
    assert len({classifier_name(e.classifier) for e in experiments}) == 18, "names differ"
    for network in study.TARGETS:
        own = [e.classifier for e in experiments if e.classifier.network == network]
        assert [(s.dp_noise_multiplier, s.dp_target_epsilon) for s in own] == [
            (0, 0), (0.5, 0), (1, 0), (2, 0), (0, 8), (0, 1),
        ]  # fmt: skip
        alike = {
            (s.max_epochs, s.batch_size, s.sgd_momentum, s.constant_rate, s.dataset, s.precision)
            for s in own
        }
        assert alike == {(20, 40, 0.9, True, "faces", "32")}
    later = faces_experiments(ClassifierSpec(dataset="faces", seed=1), AttackerSpec(), first_seed=0)
    assert {e.classifier.network for e in later} == {"softmax_regression"} and len(later) == 8


def test_other_images_than_of_people_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["faces", "--dataset", "digits"]) == 2
    assert "needs images of people, not digits" in capsys.readouterr().err
    assert main(["faces", "--iterations", "0"]) == 2
    assert "iterations is 0" in capsys.readouterr().err
    assert main(["faces"]) == 2
    assert "cannot reach the faces; put att_faces.tar.gz" in capsys.readouterr().err


def test_the_judge_learns_from_other_pictures() -> None:
    first, second = judges(ClassifierSpec(validator=True), "faces")
    assert (first.dataset, second.dataset) == ("faces_others", "faces_all")
    built = building.build_classifier(first)
    assert [type(layer).__name__ for layer in list(built.network.client)[:1]] == ["OwnContrast"]


def test_sgd_is_stored_spelled_and_used() -> None:
    spec = ClassifierSpec(sgd_momentum=0.9, learning_rate=0.05, constant_rate=True)
    assert classifier_name(spec) == "digits_00noise_00nopeek_09sgd_constantrate_005rate"
    optimizer = building.build_classifier(spec).configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.05, 0.9)
    with pytest.raises(ValueError, match="sgd_momentum is 1; it must be from 0 to below 1"):
        ClassifierSpec(sgd_momentum=1)


# ---------------------------------------------------------------- scores


def named(answers: Tensor) -> SplitClassifier:
    """A judge whose logits for picture i are row i, told by the picture's first pixel."""

    class Looked(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return answers[(images[:, 0, 0, 0] * 100).round().long()]

    network = SplitNetwork(torch.nn.Identity(), Looked(), (1, 11, 11), answers.shape[1])
    return SplitClassifier(network)


def test_ranks_and_confidence_are_those_of_the_right_person() -> None:
    answers = torch.tensor(
        [[5.0, 1, 2, 3, 4, 0, 0], [9, 0, 1, 2, 3, 4, 5], [1, 3, 2, 0, 0, 0, 0], [0.0] * 7]
    )
    people = torch.tensor([0, 1, 2, 3])
    guesses = (torch.arange(4.0) / 100).view(-1, 1, 1, 1).expand(-1, 1, 11, 11)
    scores = identified(named(answers), guesses, people)
    assert scores["Rank"].tolist() == [1, 7, 2, 7], "a judge who cannot tell names nobody"
    assert scores["Top1"].tolist() == [100, 0, 0, 0] and scores["Top5"].tolist() == [100, 0, 100, 0]
    torch.testing.assert_close(
        scores["Confidence"], 100 * answers.softmax(1)[torch.arange(4), people]
    )


def test_likeness_is_to_the_own_mean_and_the_nearest_own_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 12, 12, generator=generator)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    guesses = torch.stack([images[2] * 0.9, images[1] * 0.9])
    scores = likeness(guesses, torch.tensor([0, 1]), images, labels)
    torch.testing.assert_close(scores["SSIMNearest"], ssim(guesses, images[[2, 1]]))
    torch.testing.assert_close(scores["MSENearest"], mse(guesses, images[[2, 1]]))
    means = torch.stack([images[::2].mean(0), images[1::2].mean(0)])
    torch.testing.assert_close(scores["MSEMean"], mse(guesses, means))
    torch.testing.assert_close(scores["SSIMMean"], ssim(guesses, means))
    exact = likeness(means, torch.tensor([0, 1]), images, labels)
    assert exact["SSIMMean"].tolist() == pytest.approx([1, 1], abs=1e-4)


def test_contrast_is_a_photographs_and_a_judge_does_not_mind_it() -> None:
    images = torch.rand(3, 1, 20, 20) * 0.01 + 0.4
    shown = contrasted(images)
    assert shown.mean((1, 2, 3)).tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert shown.std((1, 2, 3)).tolist() == pytest.approx([0.2] * 3, abs=0.01)
    judge = NETWORKS["faces_judge"]((1, 20, 20), 4).eval()
    torch.testing.assert_close(judge(images), judge(shown), rtol=1e-2, atol=1e-2)
    grey = torch.full((1, 1, 20, 20), 0.3)
    torch.testing.assert_close(contrasted(grey), torch.full_like(grey, 0.5), rtol=0, atol=0.01)
    assert judge(grey).isfinite().all()


def test_wilson_agrees_with_statistics_textbooks() -> None:
    # Newcombe 1998, table I, method 3.
    assert wilson(100 * 81 / 263, 263) == pytest.approx((25.53, 36.62), abs=0.01)
    assert wilson(100 * 15 / 148, 148) == pytest.approx((6.24, 16.05), abs=0.01)
    assert wilson(0, 20) == pytest.approx((0, 16.11), abs=0.01)
    assert wilson(100, 29)[1] == 100


# ---------------------------------------------------------------- the ledger


def test_the_ledger_of_faces(tmp_path: Path) -> None:
    assert "Not run: `./main.sh faces`." in section("faces", tmp_path)
    models: list[dict[str, object]] = []
    attacks: list[dict[str, object]] = []
    for seed in (0, 1):
        for dataset, epsilon in (("faces", None), ("faces", 8.0), ("faces_all", 35.2)):
            common: dict[str, object] = {
                "Model": f"{dataset} {epsilon} {seed}",
                "Dataset": dataset,
                "Network": "softmax_regression",
                "DPEpsilon": epsilon,
                "DPNoiseMultiplier": 1.0 if epsilon else None,
                "Seed": seed,
            }
            models.append({**common, "MeanTrainAcc": 91.0 + seed, "TestAcc": 80.0 + 2 * seed})
            scores = {"Top1": 65.0, "Top1Low": 49.5, "Top1High": 77.9, "SSIMMean": 0.25 + seed / 10}
            epsilons = {f"DPEpsilon_{name}": epsilon for name in ("rdp", "prv", "gdp", "classic")}
            more = {"Attack": "paper", "Judge": "judge", "JudgeDataset": "faces_others"}
            ends = {"SSIMMeanMeanFace": 0.4, "Top1MeanFace": 2.5, "Top1TrueFace": 85.0 + seed}
            attacks.append({**common, **scores, **epsilons, **more, **ends})
    tables.upsert(tables.models_table(tmp_path), models, tables.CLASSIFIER_KEY)
    tables.upsert(tables.inversions_table(tmp_path), attacks, study.KEY)
    lines = section("faces", tmp_path).split("\n")
    seeds = "91.5 ± 6.4 (2 seeds)"
    assert "| no DP-SGD | 87.25 | not run | ∞ | ∞ | ∞ | ∞ | ∞ |" in lines
    assert f"| multiplier 0.5 | 91.75 | {seeds} | 35.15 |{' 35.20 |' * 4}" in lines
    share = "65.0 [49.5, 77.9] | not run | not run | 0.300 | 0.400 |"
    ours = [line for line in lines if line.startswith("| softmax_regression")]
    assert ours == [
        f"| softmax_regression | {shown} | 81.0 ± 12.7 (2 seeds) | {share}" for shown in ("∞", "8")
    ]
    assert f"| *floor* |  |  |{' 2.5 |' * 3}  |  |" in lines
    assert f"| *ceiling* |  |  |{' 85.0 to 86.0 |' * 3}  |  |" in lines


# ---------------------------------------------------------------- in small


@pytest.fixture
def small(place: Path, monkeypatch: pytest.MonkeyPatch, offer: Callable[..., None]) -> Path:
    """Six made-up people in the place of the forty, and a study of one network, two noises and two step sizes."""
    write_people(place / "people", 6, 10)
    for kind, name in (
        (Faces, "faces"), (FacesAll, "faces_all"), (FacesOthers, "faces_others"),
        (FacesTuning, "faces_tuning"),
    ):  # fmt: skip
        offer(name, own_faces(place / "people", kind))
    monkeypatch.setattr(study, "LOT", 20)
    monkeypatch.setattr(study, "NOISES", (1.0,))
    monkeypatch.setattr(study, "EPSILONS", (1.0,))
    monkeypatch.setattr(study, "RATES", (0.01, 0.25))
    monkeypatch.setattr(study, "TARGETS", ("softmax_regression",))
    return place


@pytest.mark.slow
def test_the_whole_study_in_small(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "faces --max_epochs 20 --iterations 100 --seeds 0".split()
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "results/quantitative_measures/mi_face.csv"
    assert err.count("trying learning rate") == 3 * 2
    rows = tables.read(tables.inversions_table("results"), study.KEY)
    assert len(rows) == 5 * 3 * 2, "targets, attacks, judges"
    for row in rows:
        assert row["People"] == "6"
        low, share, high = (float(row[name]) for name in ("Top1Low", "Top1", "Top1High"))
        assert 0 <= low <= share <= high <= 100
        assert 0 <= float(row["MSENearest"]) and -1 <= float(row["SSIMMean"]) <= 1
        assert 0 < float(row["Iterations"]) <= 100 and float(row["JudgeAcc"]) > 50
        assert float(row["Top1MeanFace"]) == pytest.approx(100 / 6, abs=0.01), "one person of six"
        assert float(row["Top1RandomFace"]) < 50 < float(row["Top1TrueFace"])
        shares = row["Dataset"] == "faces_all" or row["JudgeDataset"] == "faces_all"
        assert row["JudgeSharesImages"] == str(shares)
        private = row["DPEpsilon"] != ""
        assert all((row[f"DPEpsilon_{name}"] != "") == private for name in ("rdp", "prv", "gdp"))
        if private:
            assert float(row["DPEpsilon_rdp"]) == pytest.approx(float(row["DPEpsilon"]), rel=1e-4)
    (plain,) = (
        row
        for row in rows
        if row["Dataset"] == "faces" and row["Attack"] == "paper" and not row["DPEpsilon"]
        and row["JudgeDataset"] == "faces_others"
    )  # fmt: skip
    assert float(plain["Top1"]) > float(plain["Top1MeanFace"]), "people are recognised"
    budget = {row["DPTargetEpsilon"]: float(row["DPEpsilon"] or 0) for row in rows}
    assert 0.9 < budget["1.0" if "1.0" in budget else "1"] <= 1
    people = tables.read(by_person_table("results"), study.PERSON_KEY)
    assert len(people) == 6 * len(rows)
    own = [r for r in people if all(r[k] == plain[k] for k in study.KEY)]
    assert sum(int(r["Iterations"]) for r in own) / 6 == pytest.approx(
        float(plain["Iterations"]), rel=1e-4
    )
    models = {row["Model"]: row for row in tables.read(tables.models_table("results"))}
    assert {row["SGDMomentum"] for row in models.values()} == {"0.9"} and len(models) == 5
    assert {name[-2:] for name in models} == {"09", "19"}, "the last epochs are kept"
    assert Path("results/figures/people_by_epsilon_faces.png").stat().st_size > 5000
    by_seed = tables.read(Path("results/quantitative_measures/mi_face_by_seed.csv"))
    assert len(by_seed) == len(rows)

    before = tables.inversions_table("results").read_text()
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "training" not in err and "trying" not in err and "inverting" not in err
    assert tables.inversions_table("results").read_text() == before


@pytest.mark.slow
def test_an_engine_makes_all_of_it_ahead_and_the_same(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "faces --max_epochs 1 --iterations 3 --seeds 0 1".split()
    monkeypatch.setattr(study, "NOISES", ())
    monkeypatch.setattr(study, "EPSILONS", ())
    monkeypatch.setattr(study, "ATTACKS", {"smoothed": MIFace(smoothing=2.0)})

    def made(name: str, *more: str) -> list[list[dict[str, str]]]:
        folders = ["--models_dir", f"{name}/models", "--results_dir", f"{name}/results"]
        assert main([*words, *folders, *more]) == 0
        found = Path(name, "results", "quantitative_measures").glob("*.csv")
        rows = (
            [{k: v for k, v in row.items() if not k.endswith("Seconds")} for row in tables.read(p)]
            for p in sorted(found)
        )
        return [sorted(each, key=lambda row: [*row.values()]) for each in rows]

    plain = made("one")
    capsys.readouterr()
    # In this process, where the made-up people are known; some jobs are lost, some done twice.
    monkeypatch.setattr(Where, "start", lambda self, logs: Unsteady(self.jobs, 5, lost=0.1))
    assert made("two", "--jobs", "2") == plain
    err = capsys.readouterr().err
    ahead, _, after = err.partition("[faces: 7 of 7 done")
    told = [line for line in ahead.splitlines() if "ahead]" in line]
    assert sum("step sizes of" in line for line in told) == 1
    assert sum(": smoothed" in line for line in told) == 2 * 3
    assert "was lost (gone" in ahead
    assert [line for line in told if "failed" in line] == []
    assert after and "trying" not in after and "inverting" not in after
    assert any(Path("two/results/logs/jobs").iterdir())


def test_step_sizes_are_chosen_by_training_pictures_and_not_tried_twice(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = Folders(results_dir="results", models_dir="models")
    spec = ClassifierSpec(
        dataset="faces", network="softmax_regression", max_epochs=2, batch_size=20, sgd_momentum=0.9
    )
    rates = (1e-6, 0.01)
    chosen = tuned(spec, "faces_tuning", rates, folders)
    assert chosen.learning_rate == 0.01 and chosen.dataset == "faces"
    assert capsys.readouterr().err.count("trying learning rate") == 2
    rows = tables.read(tuning_table("results"))
    assert [row["Dataset"] for row in rows] == ["faces_tuning"] * 2
    best = max(rows, key=lambda row: float(row["ValAcc"]))
    assert float(best["LearningRate"]) == 0.01
    assert tuned(spec, "faces_tuning", rates, folders) == chosen
    assert "trying" not in capsys.readouterr().err
    assert not Path("models").exists(), "trials leave no checkpoint"


def test_step_sizes_that_diverge_are_not_chosen(small: Path) -> None:
    folders = Folders(results_dir="results", models_dir="models")
    spec = ClassifierSpec(
        dataset="faces", network="softmax_regression", max_epochs=2, batch_size=20, sgd_momentum=0.9
    )
    assert tuned(spec, "faces_tuning", (1e38, 1e-6), folders).learning_rate == 1e-6
    row = next(r for r in tables.read(tuning_table("results")) if float(r["LearningRate"]) > 1)
    assert row["ValAcc"] == row["ValLoss"] == ""
    with pytest.raises(Diverged, match="each of the step sizes .1e.38."):
        tuned(spec, "faces_tuning", (1e38,), folders)
    # So it was written before.
    tables.upsert(tuning_table("results"), [{**row, "ValAcc": "0", "ValLoss": "inf"}], KEY)
    with pytest.raises(Diverged):
        tuned(spec, "faces_tuning", (1e38,), folders)


def test_a_judge_that_gives_no_numbers_ranks_nobody() -> None:
    guesses = torch.zeros(1, 1, 11, 11)
    with pytest.raises(UsageError, match="judge answers holds values that are not finite"):
        identified(named(torch.full((1, 7), torch.nan)), guesses, torch.tensor([0]))
    assert all(map(math.isnan, wilson(math.nan, 20)))


def test_a_dry_run_names_the_judge_and_the_targets(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["faces", "--dry-run", "--seeds", "0", "1"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "--dataset faces_others" in lines[0] and "--validator" in lines[0]
    assert len(lines) == 1 + 2 * 5 + 2 and "tuned before" in err
    assert not Path("results").exists()


def test_too_few_pictures_for_a_lot_are_refused(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "LOT", 31)
    assert main(["faces"]) == 2
    assert "tuned on 30 of the pictures, too few for lots of 31" in capsys.readouterr().err
