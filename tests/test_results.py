"""The committed results hold what the README says of them."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from dpsnn.checkpoints import attacker_name, classifier_name
from dpsnn.names import spell
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.ledger import write_ledger
from dpsnn.runner.run import merge
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.faces.study import RATES, faces_experiments, judges
from dpsnn.studies.omniglot.study import PUBLISHED, omniglot_experiments
from dpsnn.studies.secure.study import secure_experiments
from dpsnn.studies.suppress.study import suppress_experiments
from dpsnn.studies.titcombe.comparison import PROTOCOL, Training, controls, gather, number
from dpsnn.studies.titcombe.groups import GROUPS
from dpsnn.studies.titcombe.published import published_experiments
from dpsnn.studies.titcombe.reasons import is_met

RESULTS = Path(__file__).parent.parent / "results"
TABLES = RESULTS / "quantitative_measures"

HEADLINE = [
    "00noise_00nopeek",
    "05noise_00nopeek",
    "10noise_00nopeek",
    "00noise_05nopeek",
    "10noise_05nopeek",
]


def rows(name: str) -> list[dict[str, str]]:
    with open(TABLES / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def attack(
    defence: str, naive: bool = False, by: str = "", set_noise: str = ""
) -> dict[str, float]:
    kind = f"mnist_attacker{'_naive' * naive}{by}"
    (row,) = (
        row
        for row in rows("attack_performances.csv")
        if row["Model"].startswith(f"mnist_{defence}_epoch")
        and row["Attacker"] == f"{kind}_model<{row['Model']}>{set_noise}"
    )
    return {key: float(row[key]) for key in ("MSE", "SEMSE", "SSIM", "MSEFloor", "ValAccuracy")}


@pytest.mark.parametrize("defence", HEADLINE)
def test_every_headline_model_was_measured_and_attacked(defence: str) -> None:
    (model,) = (
        row
        for row in rows("model_performances.csv")
        if row["Model"].startswith(f"mnist_{defence}_epoch")
    )
    assert float(model["TestAcc"]) > 97 and model["MaxEpochs"] == "10"
    ways = [attack(defence, by=by) for by in ("", "_1doublings", "_ridge", "_refiner_1doublings")]
    if defence.startswith("10noise"):
        ways.append(attack(defence, by="_mixture"))
    if not defence.startswith("00noise"):
        ways.append(attack(defence, naive=True))
    for row in ways:
        assert row["MSEFloor"] == pytest.approx(0.0678, abs=1e-4)


def test_plain_is_accurate_and_leaks() -> None:
    (plain,) = (
        r
        for r in rows("model_performances.csv")
        if r["Model"].startswith("mnist_00noise_00nopeek_epoch")
    )
    assert float(plain["TestAcc"]) >= 98.5
    assert attack("00noise_00nopeek")["SSIM"] >= 0.95


@pytest.mark.parametrize(
    ("defence", "by", "set_noise", "most"),
    [
        ("00noise_00nopeek", "_refiner_1doublings", "", 0.0045),
        ("00noise_05nopeek", "_refiner_1doublings", "", 0.0065),
        ("10noise_00nopeek", "_ensemble", "", 0.0265),
        ("00noise_00nopeek", "_mixture", "_set50noise", 0.052),
    ],
)
def test_no_attacker_that_somebody_tried_gets_more(
    defence: str, by: str, set_noise: str, most: float
) -> None:
    """What code that shares nothing with this package got of classifiers that were trained for half as long."""
    assert attack(defence, by=by, set_noise=set_noise)["MSE"] <= most


@pytest.mark.parametrize("defence", HEADLINE)
def test_the_best_linear_map_is_weaker_than_the_decoder(defence: str) -> None:
    assert attack(defence, by="_ridge")["MSE"] > attack(defence)["MSE"]


def test_adapting_to_the_noise_pays() -> None:
    adaptive, naive = attack("10noise_00nopeek"), attack("10noise_00nopeek", naive=True)
    assert adaptive["MSE"] <= 0.6 * naive["MSE"]


WHOLE = merge(GROUPS["all"](ClassifierSpec(dataset="mnist"), AttackerSpec()))


@pytest.mark.parametrize("experiment", WHOLE, ids=lambda e: classifier_name(e.classifier))
def test_every_member_of_the_paper_has_its_row(experiment: Experiment) -> None:
    name = classifier_name(experiment.classifier)
    (model,) = (
        row for row in rows("model_performances.csv") if row["Model"].rsplit("_epoch", 1)[0] == name
    )
    assert model["MaxEpochs"] == "10" and float(model["TestAcc"]) > float(model["AccFloor"])
    there = {row["Attacker"] for row in rows("attack_performances.csv")}
    wanted = {
        attacker_name(replace(a, model=model["Model"], surrogate=a.surrogate or "mnist"))
        for a in experiment.attackers
    }
    assert wanted and wanted <= there


def test_the_paper_has_24_classifiers() -> None:
    assert len(WHOLE) == 24


def test_the_adaptive_attacker_is_at_least_as_strong_as_the_naive_one_in_every_row() -> None:
    """Within the 95 % interval over images."""
    pairs: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows("attack_performances.csv"):
        if row["Decoder"] == "conv":
            pair = pairs.setdefault(row["Attacker"].replace("_naive", ""), {})
            pair[row["Adaptive"]] = row
    both = [pair for pair in pairs.values() if len(pair) == 2]
    assert len(both) >= 16
    for pair in both:
        adaptive, naive = (float(pair[key]["MSE"]) for key in ("True", "False"))
        margin = 1.96 * max(float(row["SEMSE"]) for row in pair.values())
        assert adaptive <= naive + margin, pair["True"]["Attacker"]


# ---------------------------------------------------------------- names

ROWS = {
    "attack_performances.csv": 214,
    "mi_face.csv": 312,
    "mi_face_by_person.csv": 4800,
    "model_performances.csv": 94,
    "omniglot_by_alphabet.csv": 100,
    "suppress.csv": 94,
    "../published/quantitative_measures/attack_performances.csv": 25,
    "../published/quantitative_measures/model_performances.csv": 25,
    "../published/quantitative_measures/published.csv": 25,
}


@pytest.mark.parametrize("table, count", ROWS.items())
def test_no_row_lost_its_model(table: str, count: int) -> None:
    models = {row["Model"] for row in rows(str(Path(table).with_name("model_performances.csv")))}
    assert len(rows(table)) == count
    for row in rows(table):
        assert row["Model"] in models
        if "Attacker" in row:
            assert f"_model<{row['Model']}>" in row["Attacker"]


@pytest.mark.parametrize("table", [name for name in ROWS if "model_performances" in name])
def test_names_say_how_a_classifier_was_trained(table: str) -> None:
    for row in rows(table):
        told = ""
        if row["MaxEpochs"] != "10":
            told += f"_{row['MaxEpochs']}epochs"
        if row["LearningRate"] != "0.001":
            told += f"_{spell(float(row['LearningRate']))}rate"
        if row["BatchSize"] != "128":
            told += f"_{row['BatchSize']}batch"
        told += f"_seed{row['Seed']}" * (row["Seed"] != "0")
        assert row["Model"].endswith(f"{told}_epoch={int(row['Epoch']):02d}")
        assert row["Model"].count("epochs") == ("epochs" in told)
        assert row["Model"].count("batch") == ("batch" in told)


@pytest.mark.parametrize("table", [name for name in ROWS if "attack_performances" in name])
def test_names_say_how_an_attacker_was_trained(table: str) -> None:
    for row in rows(table):
        head = row["Attacker"].partition("_model<")[0]
        assert (f"_{row['MaxEpochs']}epochs" in head) == (row["MaxEpochs"] != "20")
        assert ("_128batch" in head) == ("published" in table)


def spelled(experiments: list[Experiment], table: str) -> set[str]:
    """Rows of classifiers with the names that these experiments give them, without the epoch."""
    names = {classifier_name(experiment.classifier) for experiment in experiments}
    return names & {row["Model"].rsplit("_epoch=", 1)[0] for row in rows(table)}


def test_other_groups_find_their_rows_by_name() -> None:
    base, attacker = ClassifierSpec(dataset="mnist"), AttackerSpec()
    silent = merge(suppress_experiments(base, attacker))
    assert len(spelled(silent, "model_performances.csv")) == len(silent) == 10
    paper = merge(published_experiments(base, attacker))
    table = "../published/quantitative_measures/model_performances.csv"
    assert len(spelled(paper, table)) == len(paper) == 25
    judged = {row["Judge"].rsplit("_epoch=", 1)[0] for row in rows("mi_face.csv")}
    assert judged == {classifier_name(j) for j in judges(ClassifierSpec(), "faces")}
    people = faces_experiments(ClassifierSpec(dataset="faces"), attacker)
    as_published = [e for e in people if e.classifier.dataset == "faces_all"]
    assert len(spelled(as_published, "model_performances.csv")) == 2
    # Step sizes of the others are tuned.
    rates = [Experiment(replace(e.classifier, learning_rate=r), ()) for e in people for r in RATES]
    fair = [e for e in rates if e.classifier.dataset == "faces"]
    assert len(spelled(fair, "model_performances.csv")) == 18
    served = {row["Model"].rsplit("_epoch=", 1)[0] for row in rows("secure.csv")}
    assert served == {classifier_name(spec) for spec in secure_experiments(base)}


# ---------------------------------------------------------------- the ledger


def test_every_published_row_stands_beside_ours() -> None:
    lines = gather("mnist", RESULTS / "published", RESULTS)
    assert len(lines) == 20
    for line in lines:
        assert line.protocol and line.wire and line.protocol["MaxEpochs"] == "10", line.paper
        assert line.sound and len(line.attackers) >= 2, line.paper


def test_published_distance_correlations_come_back_at_noise_1_with_nopeek_before_it() -> None:
    lines = gather("mnist", RESULTS / "published", RESULTS)
    cuts = [line for line in lines if line.paper.dcorr is not None]
    assert len(cuts) == 13
    beyond = [
        line.paper[:2]
        for line in cuts
        if not is_met(number(line.protocol, "ActivationDCorr"), line.paper.dcorr)
    ]
    assert beyond == [(1.0, 0.1), (1.0, 0.25)]
    clean = [line for line in cuts if line.paper.noise_scale == 1]
    assert len(clean) == 3
    for line in clean:
        assert is_met(number(line.clean, "ActivationDCorr"), line.paper.dcorr), line.paper


def test_the_order_of_images_explains_the_rest() -> None:
    """Trained as we would, the same row is further from the paper than trained as the paper did."""
    found = {
        way: number(row, "ActivationDCorr")
        for way, row in controls("mnist", RESULTS / "published").items()
    }
    ways = (Training(False, False), Training(True, False), PROTOCOL)
    ours, shuffled, protocol = (found[way] for way in ways)
    assert ours and shuffled and protocol and ours > shuffled > protocol + 0.02


def test_the_ledger_is_what_its_command_writes(tmp_path: Path) -> None:
    written = write_ledger("mnist", RESULTS, tmp_path / "ledger.md")
    assert written.read_bytes() == (RESULTS.parent / "docs" / "reproduction.md").read_bytes()


# ---------------------------------------------------------------- faces


def test_the_published_faces_have_their_epsilon_and_accuracy() -> None:
    """AIJack's tutorial: ε 35.15 by Rényi accounting, and 91.75 % of the pictures that were trained on."""
    spent = {
        float(row["DPEpsilon_rdp"])
        for row in rows("mi_face.csv")
        if row["Dataset"] == "faces_all" and row["DPEpsilon"]
    }
    assert len(spent) == 1 and abs(spent.pop() - 35.15) <= 0.3
    accuracies = [
        float(row["MeanTrainAcc"])
        for row in rows("model_performances.csv")
        if row["Dataset"] == "faces_all" and row["DPEpsilon"]
    ]
    assert len(accuracies) == 5 and min(accuracies) >= 90


def test_people_are_recognised_without_privacy_and_hardly_with_it() -> None:
    """The authors' settings against softmax regression, by a judge who was trained on other pictures."""
    told: dict[str, list[float]] = {}
    for row in rows("mi_face.csv"):
        kind = (row["Network"], row["Attack"], row["JudgeDataset"])
        if row["Dataset"] == "faces" and kind == ("softmax_regression", "paper", "faces_others"):
            strength = row["DPNoiseMultiplier"] and f"{float(row['DPEpsilon']):.0f}"
            told.setdefault(strength, []).append(float(row["Top1"]))
            assert float(row["Top1MeanFace"]) <= 2.5 and row["People"] == "40"
    assert len(told) == 6 and all(len(values) == 5 for values in told.values()), "five seeds"
    plain = told.pop("")
    assert min(plain) >= 60
    assert max(sum(values) / 5 for values in told.values()) < min(plain) / 2


# ---------------------------------------------------------------- Omniglot

ALPHABETS = omniglot_experiments(ClassifierSpec(dataset="omniglot"), AttackerSpec())


def target(experiment: Experiment) -> dict[str, str]:
    name = classifier_name(experiment.classifier)
    (row,) = (
        row for row in rows("model_performances.csv") if row["Model"].rsplit("_epoch", 1)[0] == name
    )
    return row


@pytest.mark.parametrize("experiment", ALPHABETS, ids=lambda e: classifier_name(e.classifier))
def test_every_target_of_alphabets_was_attacked(experiment: Experiment) -> None:
    """By both decoders, and where it was trained fairly by the best linear map too."""
    model = target(experiment)
    assert float(model["MeanValAcc"]) > float(model["AccFloor"])
    by_alphabet = rows("omniglot_by_alphabet.csv")
    fair = experiment.classifier.dataset == "omniglot"
    for attacker in (a for a in experiment.attackers if fair or a.attack == "decoder"):
        name = attacker_name(
            replace(attacker, model=model["Model"], surrogate=experiment.classifier.dataset)
        )
        (row,) = (row for row in rows("attack_performances.csv") if row["Attacker"] == name)
        assert row["Images"] == "3120" and float(row["SEMSE"]) > 0
        parts = [part for part in by_alphabet if part["Attacker"] == name]
        assert len({part["Alphabet"] for part in parts}) == len(parts) == 5
        assert sum(int(part["Images"]) for part in parts) == 3120
        whole = sum(int(part["Images"]) * float(part["MSE"]) for part in parts) / 3120
        assert whole == pytest.approx(float(row["MSE"]), rel=1e-4)


def test_published_targets_come_back() -> None:
    """The blog's accuracies, of training images; the undefended one's of validation images is 0.73 there."""
    published = [target(e) for e in ALPHABETS if e.classifier.dataset == "omniglot_overlap"]
    assert len(published) == len(PUBLISHED)
    assert float(published[0]["MeanValAcc"]) >= 70
    for row, paper in zip(published[1:], PUBLISHED[1:]):
        assert float(row["MeanTrainAcc"]) == pytest.approx(paper.accuracy, abs=8)


def test_dp_sgd_hides_members_and_no_inputs() -> None:
    """Alike but for noise and step size: the gap of the accuracies closes, an attacker's error does not grow."""
    fair = [e for e in ALPHABETS if e.classifier.dataset == "omniglot"]
    accuracies, gaps, errors, similarities = [], [], [], []
    for experiment in fair:
        model = target(experiment)
        accuracies.append(float(model["TestAcc"]))
        gaps.append(float(model["MeanTrainAcc"]) - accuracies[-1])
        attackers = [
            row for row in rows("attack_performances.csv") if row["Model"] == model["Model"]
        ]
        errors.append(min(float(row["MSE"]) for row in attackers))
        similarities.append(max(float(row["SSIM"]) for row in attackers))
        floor = float(attackers[0]["SSIMFloor"])
    # The less noise, the more is remembered and known.
    assert gaps[0] > 15 and gaps[0] / 2 > gaps[3] > gaps[2] > gaps[1]
    assert gaps[2] < 5, "where epsilon is not yet meaningless"
    assert accuracies[0] > accuracies[3] > accuracies[2] > accuracies[1]
    assert max(errors[1:]) < errors[0]
    assert min(similarities) > floor + 0.1


# ---------------------------------------------------------------- federated, encrypted


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_secure_averages_are_the_averages(dataset: str) -> None:
    found: dict[bool, list[dict[str, str]]] = {True: [], False: []}
    for row in rows("federated.csv"):
        if row["Model"].startswith(f"{dataset}_"):
            found[row["Model"].endswith("plain")].append(row)
    secure, plain = found[False], found[True]
    assert [row["Round"] for row in secure] == [row["Round"] for row in plain]
    assert len(secure) == 10 and {row["Clients"] for row in [*secure, *plain]} == {"5"}
    for row in secure:
        assert float(row["MaxDifference"]) <= float(row["QuantisationBound"]) < 2e-8
    assert float(secure[-1]["TestAcc"]) == pytest.approx(float(plain[-1]["TestAcc"]), abs=0.5)


def test_encrypted_answers_are_those_in_clear() -> None:
    modes = {row["Mode"]: row for row in rows("secure.csv")}
    assert set(modes) == {"whole", "split"} and len(rows("secure.csv")) == 2
    for row in modes.values():
        assert (row["Dataset"], row["Images"], row["Agreement"]) == ("mnist", "200", "100")
        assert float(row["MaxScoreError"]) <= 0.02 and float(row["PeakGiB"]) < 2
        assert float(row["SecondsSingle"]) < 1


# ---------------------------------------------------------------- suppression


def suppressed(attack: str, cut: str, sparsity: str, constant: str = "") -> dict[str, float]:
    wanted = ("lenet5", attack, cut, sparsity, constant)
    (row,) = (
        row
        for row in rows("suppress.csv")
        if tuple(
            row[name] for name in ("Network", "Attack", "Cut", "SuppressSparsity", "ConstantRate")
        )
        == wanted
    )
    names = ("TestAcc", "RelativeL2", "RelativeL2CI", "SSIM2", "ValAccuracy", "Images", "Sparsity")
    return {name: float(row[name]) for name in names}


@pytest.mark.parametrize("sparsity", ["0", "0.5", "0.8", "0.9", "0.95"])
@pytest.mark.parametrize("cut", ["conv1", "conv2", "fc1", "fc2", "logits"])
def test_lenet_was_attacked_at_every_cut_in_three_ways(cut: str, sparsity: str) -> None:
    for attack in ("sign", "inversion", "decoder"):
        row = suppressed(attack, cut, sparsity)
        assert row["Images"] >= 500 and row["RelativeL2CI"] > 0
        assert row["Sparsity"] == pytest.approx(float(sparsity), abs=0.001)


def test_silent_weights_cost_as_little_as_published() -> None:
    error = 0.1  # standard error of a share of 99 % of 10,000 images, in points
    assert suppressed("sign", "fc1", "0")["TestAcc"] >= 99.0 - 2 * error
    assert suppressed("sign", "fc1", "0.95")["TestAcc"] >= 97.4


@pytest.mark.parametrize(
    ("sparsity", "distance", "similarity"), [("0", 0.829, 0.243), ("0.95", 0.863, 0.264)]
)
def test_the_published_attack_lands_near_its_figures(
    sparsity: str, distance: float, similarity: float
) -> None:
    row = suppressed("sign", "fc1", sparsity, "True")
    assert row["RelativeL2"] == pytest.approx(distance, abs=0.05)
    assert row["SSIM2"] == pytest.approx(similarity, abs=0.02)


def test_silent_weights_stop_the_published_attack_and_no_decoder() -> None:
    sign, decoder = (
        [suppressed(attack, "fc1", sparsity) for sparsity in ("0", "0.95")]
        for attack in ("sign", "decoder")
    )
    assert sign[1]["ValAccuracy"] < sign[0]["ValAccuracy"] - 10
    assert decoder[1]["RelativeL2"] + decoder[1]["RelativeL2CI"] < decoder[0]["RelativeL2"]
