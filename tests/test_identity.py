"""Whose row it is: no two models share one or take it from one another; what is of an earlier version stays that."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from invented import write_tables

from dpsnn import building, checkpoints, parts, registry
from dpsnn.checkpoints import ATTACKER, CLASSIFIER, Stored
from dpsnn.cli import main
from dpsnn.errors import UsageError
from dpsnn.evaluation import tables
from dpsnn.evaluation.attackers import load_attacked
from dpsnn.evaluation.identity import identity
from dpsnn.evaluation.results import Results
from dpsnn.evaluation.summary import write_summaries
from dpsnn.folders import Folders
from dpsnn.names import classifier_name, names_of
from dpsnn.runner import run
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.train import train_attacker
from dpsnn.specs import AttackerSpec, ClassifierSpec, of_versions, plain, replace
from dpsnn.studies.titcombe.headline import markdown
from dpsnn.target import Target

FileMaker = Callable[..., Path]
LATER = 99
"""A version that no part has yet."""


@pytest.fixture
def raised(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Let a part of this package have a later version, and still know its first: `raised(kind, key)`."""

    def make(kind: str, key: str) -> None:
        own = registry._own

        def later(asked: str) -> tuple[parts.Declared, ...]:
            return tuple(
                each._replace(version=LATER) if (asked, each.key) == (kind, key) else each
                for each in own(asked)
            )

        monkeypatch.setattr(registry, "_own", later)
        part = parts.find(kind, key)
        monkeypatch.setattr(part, "earlier", tuple({1, *part.earlier, part.version}))
        monkeypatch.setattr(part, "version", LATER)

    return make


# ---------------------------------------------------------------- identities


def of(arguments: dict[str, object], versions: dict[str, int] | None = None) -> str:
    said = {key: {"version": n, "plugin": ""} for key, n in (versions or {}).items()}
    return identity(ClassifierSpec, Stored(Path("m.ckpt"), arguments, {}, {}, said))


def test_an_identity_is_what_was_asked_for_and_nothing_else() -> None:
    whole = plain(ClassifierSpec(noise_scale=1.0))
    same = [whole, {"noise_scale": 1}, {"noise_scale": 1.0, "dataset": "digits"}]
    # What a defence that is off was set to says nothing.
    same.append({**whole, "nopeek_exponent": 2.0})
    assert len({of(each) for each in same}) == 1
    others = [
        {},
        {"noise_scale": 10.5},
        {"noise_scale": 1.05},
        {"noise_scale": 1, "seed": 1},
        {"noise_scale": 1, "precision": "32"},
        {"noise_scale": 1, "federated_clients": 2},
    ]
    others = [plain(ClassifierSpec()) | each for each in others]
    assert len({of(each) for each in (whole, *others)}) == 1 + len(others)
    assert len({of(whole), of(whole, {"noise": 1}), of(whole, {"noise": 2})}) == 2


def test_an_attacker_of_another_target_is_another(
    tmp_path: Path, classifier_file: FileMaker, attacker_file: FileMaker
) -> None:
    path = attacker_file(tmp_path, classifier_file(tmp_path), max_epochs=1)
    stored = checkpoints.read(path, ATTACKER)
    ids = {identity(AttackerSpec, stored, of({"noise_scale": s})) for s in (0.0, 1.05, 10.5)}
    assert len(ids) == 3
    # Its weights may be others at each training.
    again = stored._replace(arguments={**stored.arguments, "target": "0" * 16})
    assert identity(AttackerSpec, again, of({"noise_scale": 0.0})) in ids


def test_a_row_is_replaced_by_its_own_model_alone(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    old = {"Model": "a", "TestAcc": 1}
    tables.upsert(table, [old, {**old, "Model": "b", "Identity": "2"}], tables.CLASSIFIER_KEY)
    # An older row does not say whose it is.
    tables.upsert(table, [{**old, "TestAcc": 2, "Identity": "1"}], tables.CLASSIFIER_KEY)
    tables.upsert(table, [{**old, "TestAcc": 3, "Identity": "1"}], tables.CLASSIFIER_KEY)
    before = table.read_text()
    assert [row["TestAcc"] for row in tables.read(table)] == ["3", "1"]
    with pytest.raises(UsageError, match="table.csv has the row of another b, of other settings;"):
        tables.upsert(table, [{**old, "Model": "b", "Identity": "1"}], tables.CLASSIFIER_KEY)
    assert table.read_text() == before


def test_two_models_of_one_name_do_not_share_a_row(
    place: Path,
    few: None,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder, scale in (("models", 10.5), ("others", 1.05)):
        target = classifier_file(place / folder, noise_scale=scale)
        assert target.stem == "digits_105noise_00nopeek_epoch=00"
        attacker_file(place / folder, target)
        classifier_file(place / folder, validator=True)
    assert main(["evaluate_models"]) == 0 and main(["evaluate_attackers"]) == 0
    files = [tables.models_table("results"), tables.attackers_table("results")]
    before = [path.read_text() for path in files]
    capsys.readouterr()
    for words in (["evaluate_models"], ["evaluate_attackers"], ["evaluate_attackers", "--all"]):
        assert main([*words, "--models_dir", "others"]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "digits_105noise" in line and "of other settings; name another --results_dir" in line
    assert [path.read_text() for path in files] == before


def test_an_attack_without_weights_is_scored_anew_on_a_target_that_was_trained_again(
    place: Path,
    few: None,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def attack() -> dict[str, str]:
        attacker = attacker_file(place / "models", target, attack="sign", steps=1)
        assert checkpoints.read(attacker, ATTACKER).weights == {}
        assert main(["evaluate_attackers"]) == 0
        attacker.unlink()
        (row,) = tables.read(tables.attackers_table("results"))
        return row

    target = classifier_file(place / "models")
    classifier_file(place / "models", validator=True)
    first = attack()
    stored = checkpoints.read(target, CLASSIFIER)
    target.unlink()
    weights = {name: 0.5 * tensor for name, tensor in stored.weights.items()}
    checkpoints.save(target, CLASSIFIER, stored.arguments, stored.record, weights)
    second = attack()
    assert first["Digest"] == second["Digest"] and first["Identity"] == second["Identity"]
    assert first["TargetDigest"] != second["TargetDigest"] == checkpoints.digest(weights)
    assert first["MSE"] != second["MSE"]
    capsys.readouterr()
    assert attack() == second and "evaluating" not in capsys.readouterr().err


def test_a_row_that_does_not_say_whose_it_is_is_made_anew_once(
    place: Path, few: None, classifier_file: FileMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier_file(place / "models")
    assert main(["evaluate_models"]) == 0
    table = tables.models_table("results")
    (row,) = tables.read(table)
    tables.write(table, [{k: v for k, v in row.items() if k not in ("Identity", "Versions")}])
    for times in (1, 0):
        capsys.readouterr()
        assert main(["evaluate_models"]) == 0
        assert capsys.readouterr().err.count("evaluating") == times
    assert tables.read(table) == [row]


# ---------------------------------------------------------------- versions


def test_what_is_of_a_later_version_never_had_the_names_of_then(
    raised: Callable[[str, str], None],
) -> None:
    model, attacker = {"noise_scale": 0.5, "max_epochs": 3}, {"model": "M", "surrogate": "digits"}
    names = names_of(ClassifierSpec, model), names_of(AttackerSpec, attacker)
    raised("defence", "noise")
    raised("attack", "decoder")
    assert names_of(ClassifierSpec, model) == [
        "digits_05noise_00nopeek_noisev99_3epochs",
        "digits_05noise_00nopeek_noisev99",
    ]
    assert names_of(AttackerSpec, attacker) == ["digits_attacker_decoderv99_model<M>"]
    assert names_of(ClassifierSpec, {"max_epochs": 3})[1] == "digits_00noise_00nopeek"
    assert names_of(ClassifierSpec, model, {"noise": 1}) == names[0]
    assert names_of(AttackerSpec, attacker, {"decoder": 1}) == [
        "digits_attacker_model<M>",
        "digits_attacker_decoderv1_model<M>",
    ]


SPEC = AttackerSpec(surrogate="digits", max_epochs=1, learning_rate=0.01, seed=3)


def as_then(models_dir: Path, target: Path) -> Path:
    """An attacker by a decoder of the first version, as the commit before a later one wrote it."""
    classifier, _, stored = checkpoints.load_classifier(target)
    spec = of_versions(replace(SPEC, model=stored.stem), {"decoder": 1})
    name = f"digits_attacker_1epochs_001rate_seed3_model<{stored.stem}>.ckpt"
    path = checkpoints.attackers_dir(models_dir) / name
    own = parts.find("dataset", "digits")().tensors("surrogate")[0]
    record = {
        "epoch": 0,
        "precision": "32-true",
        "mean_image": own.float().mean(0) / 255,
        "surrogate_source": "scikit-learn digits",
        "surrogate_images": len(own),
    }
    weights = building.build_attack(spec, Target.of(classifier)).state_dict()
    arguments = checkpoints.attacker_arguments(spec, stored)
    said = {"decoder": {"version": 1, "plugin": ""}}
    checkpoints.save(path, ATTACKER, arguments, record, weights, said)
    return path


@pytest.mark.slow
def test_attackers_of_a_models_folder_of_the_version_before(
    place: Path, classifier_file: FileMaker, raised: Callable[[str, str], None]
) -> None:
    models = place / "models"
    target = classifier_file(models)
    judge = ClassifierSpec(validator=True)
    classifier_file(models, validator=True)
    raised("attack", "decoder")
    old = as_then(models, target)
    before = old.read_bytes()
    # It loads as what it was.
    attacked = load_attacked(old, models)
    assert (attacked.spec.was, attacked.spec.method.present) == (1, 1)
    folders = Folders()
    assert run.evaluate_attackers([old], folders).is_file()
    # It is not what is asked for now, hence a group trains that, and leaves it alone.
    spec = replace(SPEC, model=target.stem)
    assert checkpoints.attacker_file(old.parent, spec) is None and not run.is_finished(
        spec, folders
    )
    experiment = Experiment(ClassifierSpec(), (SPEC,))
    ((_, _, (new,)),) = run.run([experiment], judge, folders, "test")
    assert new.name == old.name.replace("_attacker_", "_attacker_decoderv99_")
    assert old.read_bytes() == before
    assert run.finished_attackers(experiment, folders) == [new]
    # A row each, which says its version and keeps it.
    assert main(["evaluate_attackers", "--all"]) == 0
    rows = {r["Attacker"]: r for r in tables.read(tables.attackers_table("results"))}
    assert {old.stem: "decoder", new.stem: "decoder:99"} == {
        n: r["Versions"] for n, r in rows.items()
    }
    assert rows[old.stem]["Identity"] != rows[new.stem]["Identity"]
    # No text or figure mixes them.
    write_summaries("results")
    summary = tables.attackers_table("results").with_name("attack_performances_by_seed.csv")
    lines = list(csv.DictReader(summary.read_text("utf-8").splitlines()))
    assert [line["Seeds"] for line in lines] == ["1", "1"]
    results = Results(folders, "digits")
    assert [*results.attackers.Attacker] == [new.stem]
    shown = markdown([experiment], results).splitlines()[2].split(" | ")
    assert shown[2] == "images" and shown[5].startswith(f"{float(rows[new.stem]['MSE']):.4f} ± ")


@pytest.mark.slow
def test_an_attacker_of_the_first_version_hands_its_name_to_the_second(
    place: Path, classifier_file: FileMaker
) -> None:
    """The default attacker is called as it was published, whatever version it is."""
    models = place / "models"
    target = classifier_file(models)
    classifier_file(models, validator=True)
    old = as_then(models, target)
    before, folders = old.read_bytes(), Folders()
    table = run.evaluate_attackers([old], folders)
    assert [row["Versions"] for row in tables.read(table)] == ["decoder"]
    spec = replace(SPEC, model=target.stem)
    assert not run.is_finished(spec, folders)
    new = train_attacker(spec, folders)
    assert new.name == old.name and new.read_bytes() != before
    aside = old.with_name(old.name.replace("_attacker_", "_attacker_decoderv1_"))
    assert aside.read_bytes() == before
    assert train_attacker(spec, folders) == new and run.is_finished(spec, folders)
    assert load_attacked(aside, models).spec.method.present == 1
    assert main(["evaluate_attackers", "--all"]) == 0
    found = {row["Attacker"]: row["Versions"] for row in tables.read(table)}
    assert found == {aside.stem: "decoder", new.stem: "decoder:2"}


def test_figures_show_the_latest_version_of_a_defence(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, group="noise")
    table = tables.models_table(folders.results_dir)
    rows = tables.read(table)
    (old,) = (row for row in rows if row["NoiseScale"] == "0.5")
    new = {
        **old,
        "Model": old["Model"].replace("_epoch", "_noisev2_epoch"),
        "Versions": "noise:2",
    }
    tables.upsert(table, [new], tables.CLASSIFIER_KEY)
    assert [*Results(folders, "digits").models.Model] == [new["Model"]]
    # Who asks for those of then by their settings finds them, and them alone.
    spec = ClassifierSpec(noise_scale=0.5)
    (named,) = Results(folders, "digits").of(spec)
    assert [*named.Model] == [old["Model"]] == [f"{classifier_name(spec)}_epoch=00"]
    # An attacker without defences is not concerned.
    undefended = write_tables(tmp_path / "plain", 0, group="plain")
    assert len(Results(undefended, "digits").models) == 1


def test_an_attack_of_a_version_that_is_not_known_any_more_is_refused(
    tmp_path: Path,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    raised: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = attacker_file(tmp_path, classifier_file(tmp_path), attack="nearest")
    raised("attack", "nearest")
    monkeypatch.setattr(parts.find("attack", "nearest"), "earlier", ())
    with pytest.raises(UsageError, match="version 1 of the attack nearest is not known here, only"):
        load_attacked(path, tmp_path)
