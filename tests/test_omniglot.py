"""The Omniglot study: its experiments, its table by alphabet, and the whole in small on digits."""

import math
from pathlib import Path

import pytest

from dpsnn.checkpoints import attacker_name, classifier_name
from dpsnn.cli import main
from dpsnn.evaluation import tables
from dpsnn.metrics.privacy import dp_sgd_epsilon
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.omniglot.study import PUBLISHED, alphabets_table, omniglot_experiments


def test_both_protocols_have_four_targets_and_three_attackers() -> None:
    experiments = omniglot_experiments(ClassifierSpec(dataset="omniglot"), AttackerSpec())
    published, fair = experiments[:4], experiments[4:]
    assert len(fair) == 4
    names = [classifier_name(e.classifier) for e in experiments]
    assert len(set(names)) == 8, "names differ"
    for experiment in experiments:
        *decoders, linear = experiment.attackers
        assert [a.decoder for a in decoders] == ["deconv", "conv"]
        assert linear.attack == "ridge"
        named = {attacker_name(a) for a in experiment.attackers}
        assert len(named) == 3
        assert experiment.classifier.network == "mobile"
        assert experiment.classifier.batch_size == 32
    assert [e.classifier.dp_noise_multiplier for e in published] == [0, 0.7, 0.5, 0.3]
    assert [e.classifier.dp_noise_multiplier for e in fair] == [0, 0.7, 0.5, 0.3]
    assert all(e.classifier.dp_coupled for e in published[1:])
    assert all(e.classifier.dataset == "omniglot_overlap" for e in published)
    alike = {
        (s.max_epochs, s.dropout, s.norm, s.dataset, s.dp_coupled)
        for s in (e.classifier for e in fair)
    }
    assert alike == {(20, 0.0, "group", "omniglot", False)}
    for protocol in (published, fair):
        rates = [e.classifier.learning_rate for e in protocol]
        assert rates == [1e-3, 5e-3, 5e-3, 5e-3], "as published"


def test_one_protocol_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def trained(*words: str) -> list[str]:
        assert main(["omniglot", "--dry_run", *words]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if "train_" in line]

    published, fair = trained("--protocol", "published"), trained("--protocol", "fair")
    assert len(published) == len(fair) == 16
    assert [*published, *fair] == trained()
    assert all("omniglot_overlap" in line for line in published)
    assert not any("omniglot_overlap" in line for line in fair)
    assert main(["omniglot", "--protocol", "fiar"]) == 2
    assert "unknown protocol 'fiar'; choose from ['fair', 'published'] (did you mean fair?)" in (
        capsys.readouterr().err
    )


def test_published_epsilons_are_those_of_all_images() -> None:
    for row in PUBLISHED[1:]:
        history = [(row.noise_multiplier, 32 / 13180, 8237)]
        assert dp_sgd_epsilon(history, 1e-5, "classic") == pytest.approx(row.epsilon, rel=0.01)


@pytest.mark.slow
def test_the_whole_study_in_small(
    place: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "omniglot --dataset digits --max_epochs 1".split()
    assert main(words) == 0
    assert "digits_00noise_00nopeek_03dpsgd" in capsys.readouterr().err
    table = alphabets_table("results")
    rows = tables.read(table)
    assert len(rows) == 4 * 3 * 10, "four targets, three attackers, ten classes"
    for row in rows:
        assert float(row["MSE"]) > 0 and float(row["MSEFloor"]) > 0
        assert -1 <= float(row["SSIM"]) <= 1
    attackers = {row["Attacker"]: row for row in tables.read(tables.attackers_table("results"))}
    for name, row in attackers.items():
        own = [r for r in rows if r["Attacker"] == name]
        total = sum(float(r["MSE"]) * int(r["Images"]) for r in own) / 150
        assert total == pytest.approx(float(row["MSE"]), rel=1e-4), "classes add up to the whole"
    models = {row["Model"]: row for row in tables.read(tables.models_table("results"))}
    assert sorted(row["DPNoiseMultiplier"] for row in models.values()) == ["", "0.3", "0.5", "0.7"]
    epsilons = [float(row["DPEpsilon"] or math.inf) for row in models.values()]
    assert sorted(epsilons)[-1] == math.inf and len(set(epsilons)) == 4

    for name in ("reconstructions_by_epsilon", "leakage_by_epsilon"):
        assert Path(f"results/figures/{name}_digits.png").stat().st_size > 5000

    before = table.read_text()
    assert main(words) == 0
    assert "training" not in capsys.readouterr().err, "nothing is trained twice"
    assert table.read_text() == before
