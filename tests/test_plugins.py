"""Parts of others, each one file that the documentation shows, from the command line to the table."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from dpsnn import building, checkpoints, registry
from dpsnn.cli import main
from dpsnn.errors import UsageError
from dpsnn.evaluation import measures, plots, tables
from dpsnn.evaluation.attackers import attacker_row
from dpsnn.evaluation.results import Results
from dpsnn.folders import Folders
from dpsnn.given import given
from dpsnn.metrics.base import known
from dpsnn.runner import train
from dpsnn.runner.experiment import Experiment
from dpsnn.specs import AttackerSpec, ClassifierSpec, plain
from dpsnn.studies.titcombe.headline import markdown as headline

DOCS = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
EXAMPLES = dict(
    (re.match(r"# (\S+)", code).group(1), code)  # type: ignore[union-attr]
    for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
)


@pytest.fixture
def plugged(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples as files, and nothing known of them but what a test names."""
    for name, code in EXAMPLES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(registry.PLUGINS, "")
    return tmp_path


def run(words: str) -> int:
    return main([*words.split(), "--models_dir", "models", "--results_dir", "results"])


def forget() -> None:
    os.environ[registry.PLUGINS] = ""


def row(table: str) -> dict[str, str]:
    (only,) = tables.read(Path("results/quantitative_measures") / table)
    return only


def test_the_examples_are_of_every_kind_that_can_be_plugged_in(plugged: Path) -> None:
    found = {each.kind for name in EXAMPLES for each in registry._read(str(plugged / name))}
    assert found == {*registry.PACKAGES}


def test_the_tables_of_parts_in_the_docs_are_what_there_is(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parts", "--markdown"]) == 0
    assert capsys.readouterr().out == DOCS.with_name("parts.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_is_listed_with_its_options(
    plugged: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parts", "--plugin", name]) == 0
    said = capsys.readouterr().out
    for each in registry._read(str(plugged / name)):
        assert f"  {each.key} " in said and f"(plug-in {name})" in " ".join(said.split())
        for made in each.options:
            assert f"--{made.name}" in said


def test_a_defence_goes_from_the_command_line_to_the_table(
    plugged: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    used = "--plugin rounding.py"
    assert run(f"train_model {used} --max_epochs 1 --grid_step 0.25 --noise_scale 0.1") == 0
    model = Path(capsys.readouterr().out.strip()).stem
    assert model == "digits_01noise_00nopeek_025grid_1epochs_epoch=00"
    assert run(f"train_attacker {used} --max_epochs 1 --model {model}") == 0
    assert (
        run(f"train_attacker {used} --attack inversion --steps 2 --restarts 1 --model {model}") == 0
    )
    assert run(f"evaluate_models {used}") == 0
    assert row("model_performances.csv")["GridStep"] == "0.25"
    target, spec, stored = checkpoints.load_classifier(Path(f"models/classifiers/{model}.ckpt"))
    assert stored.parts["grid"] == {"version": 1, "plugin": "rounding.py"}
    assert spec == ClassifierSpec(max_epochs=1, noise_scale=0.1, grid_step=0.25)
    smashed = target.transmit(torch.rand(4, 1, 28, 28)) / 0.25
    torch.testing.assert_close(smashed, smashed.round())
    assert [part.legend() for part in spec.active] == ["noise 0.1", "grid 0.25"]
    # Another strength is another model, the same one is there already.
    assert run(f"train_model {used} --like {model} --grid_step 0.5") == 0
    assert "_05grid_" in capsys.readouterr().out
    before = Path(f"models/classifiers/{model}.ckpt").stat().st_mtime_ns
    assert run(f"train_model {used} --like {model}") == 0
    assert Path(f"models/classifiers/{model}.ckpt").stat().st_mtime_ns == before
    # Unsound company.
    assert run(f"train_model {used} --grid_step 0.5 --gaussian_std 1") == 2
    assert "never analysed" in capsys.readouterr().err.splitlines()[-1]
    assert run(f"train_model {used} --grid_step -1") == 2
    assert "grid_step is -1.0; it must be" in capsys.readouterr().err.splitlines()[-1]
    # Without the plug-in.
    forget()
    for words in ("evaluate_models", f"train_attacker --model {model}"):
        assert run(words) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "needs the defence 'grid' of the plug-in rounding.py; name it with --plugin" in line
    assert run("train_model --grid_step 0.5") == 2
    assert "unrecognized arguments: --grid_step" in capsys.readouterr().err


class Stop(Callback):
    """Interrupt after the first epoch, when its progress was kept."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:  # type: ignore[no-untyped-def]
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_adversary_goes_on_as_if_nothing_had_happened(
    plugged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "train_model --plugin adversary.py --max_epochs 2 --adversary_weight 0.5 --precision 32"
    assert run(words) == 0
    (straight,) = Path("models/classifiers").glob("*.ckpt")
    whole = checkpoints.read(straight, checkpoints.CLASSIFIER)
    assert any(name.startswith("defences.0.guess") for name in whole.weights)
    shutil.move(straight, "straight.ckpt")
    fit = train.fit
    monkeypatch.setattr(
        train, "fit", lambda *a, callbacks, **k: fit(*a, callbacks=[*callbacks, Stop()], **k)
    )
    assert run(words) == 130
    monkeypatch.setattr(train, "fit", fit)
    assert list(Path("models/classifiers/.progress").glob("*.ckpt"))
    assert run(words) == 0
    again = checkpoints.read(straight, checkpoints.CLASSIFIER)
    assert again.weights.keys() == whole.weights.keys()
    for name, weight in whole.weights.items():
        assert torch.equal(weight, again.weights[name]), name
    # It learnt: the adversary's weights moved by its own optimiser, not as they were drawn.
    fresh = building.build_classifier(checkpoints.classifier_spec(whole)).state_dict()
    assert not torch.equal(
        fresh["defences.0.guess.1.weight"], whole.weights["defences.0.guess.1.weight"]
    )


def test_a_data_set_a_network_and_a_decoder_work_together(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = " ".join(f"--plugin {name}.py" for name in ("stripes", "residual", "shallow"))
    assert (
        run(f"train_model {used} --dataset stripes --network residual --cut block1 --max_epochs 2")
        == 0
    )
    model = Path(capsys.readouterr().out.strip()).stem
    assert (
        model == "stripes_00noise_00nopeek_residual_block1cut_2epochs_epoch=01"
        or "residual" in model
    )
    assert run(f"train_model {used} --dataset stripes --validator --max_epochs 1") == 0
    assert run(f"train_attacker {used} --model {model} --decoder shallow --max_epochs 1") == 0
    assert run(f"evaluate_attackers {used}") == 0
    assert row("attack_performances.csv")["Decoder"] == "shallow"
    assert row("attack_performances.csv")["Dataset"] == "stripes"
    capsys.readouterr()
    forget()
    assert run(f"train_attacker --model {model}") == 2
    assert "unknown dataset 'stripes'" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_study_is_a_command_with_a_figure_and_a_part_of_the_ledger(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = "--plugin sweep.py"
    assert main(["--help", *used.split()]) == 0
    assert "two scales of Laplace noise, each with one attacker" in capsys.readouterr().out
    assert run(f"sweep {used} --max_epochs 1 --dry_run") == 0
    said = capsys.readouterr().out.splitlines()
    assert sum("train_model.py" in line for line in said) == 3, "two and their judge"
    assert run(f"sweep {used} --max_epochs 1") == 0
    scored = tables.read(Path("results/quantitative_measures/attack_performances.csv"))
    assert [row["TrainNoiseScale"] for row in scored] == ["0", "1"]
    capsys.readouterr()
    assert run(f"figures {used}") == 0
    assert "results/figures/sweep_digits.png" in capsys.readouterr().out.splitlines()
    words = ["ledger", *used.split(), "--dataset", "digits", "--output", "ledger.md"]
    assert main(words) == 0
    text = Path("ledger.md").read_text(encoding="utf-8")
    assert text.endswith("\n\n## A little noise on digits\n\n2 attackers of digits.\n")
    forget()
    assert run("sweep") == 2
    assert "invalid choice: 'sweep'" in capsys.readouterr().err


@pytest.mark.slow  # that of a defence goes the same way
def test_an_attack_goes_from_the_command_line_to_the_table(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = "--plugin neighbours.py"
    assert run("train_model --max_epochs 1 --noise_scale 0.1") == 0
    model = Path(capsys.readouterr().out.strip()).stem
    assert run("train_model --validator --max_epochs 1") == 0
    capsys.readouterr()
    words = f"train_attacker {used} --attack neighbours --model {model} --queries 2"
    assert run(f"{words} --neighbours_count 3") == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.name == f"digits_attacker_neighbours_3count_2queries_model<{model}>.ckpt"
    stored = checkpoints.read(path, checkpoints.ATTACKER)
    assert stored.parts["neighbours"] == {"version": 1, "plugin": "neighbours.py"}
    assert stored.arguments["neighbours_count"] == 3
    assert run(f"{words} --like {path.stem}") == 0 and str(path) in capsys.readouterr().out
    assert run(words) == 0, "the default is another attacker"
    # Beside it another attack, of which tables say the rest.
    assert run(f"train_attacker {used} --attack nearest --model {model}") == 0
    assert run(f"evaluate_attackers {used}") == 0
    rows = tables.read(Path("results/quantitative_measures/attack_performances.csv"))
    assert {(row["Attack"], row["NeighboursCount"]) for row in rows} == {
        ("neighbours", "3"),
        ("neighbours", "5"),
        ("nearest", ""),
    }
    errors = {row["Attack"]: float(row["MSE"]) for row in rows if row["NeighboursCount"] != "5"}
    assert errors["neighbours"] < errors["nearest"] < 2 * float(rows[0]["MSEFloor"])
    capsys.readouterr()
    for others, message in {
        "--neighbours_count 0": "neighbours_count is 0; it must be a whole number from 1",
        "--steps 3": "steps says nothing about the attack neighbours, only about inversion and sign",
    }.items():
        assert run(f"{words} {others}") == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert run(f"train_attacker {used} --model {model} --neighbours_count 3") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "neighbours_count says nothing about the attack decoder, only about neighbours" in line
    forget()
    assert run("evaluate_attackers --all") == 1, "the other is evaluated"
    said = capsys.readouterr().err
    assert (
        said.count("needs the attack 'neighbours' of the plug-in neighbours.py; name it with") == 2
    )


@pytest.mark.slow
def test_a_metric_goes_from_the_command_line_to_table_figure_and_headline(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = "--plugin multiscale.py"
    assert run("train_model --max_epochs 1") == 0
    model = Path(capsys.readouterr().out.strip()).stem
    assert run("train_model --validator --max_epochs 1") == 0
    assert run(f"train_attacker --attack nearest --model {model}") == 0
    assert run("evaluate_models") == 0 and run("evaluate_attackers") == 0
    before = row("attack_performances.csv")
    assert "MSSSIM" not in before
    # What an earlier row lacks is filled, once, and all else is what it was.
    capsys.readouterr()
    assert run(f"evaluate_attackers {used}") == 0 and run(f"evaluate_attackers {used}") == 0
    assert capsys.readouterr().err.count("evaluating") == 1
    after = row("attack_performances.csv")
    assert before | {"Measures": ""} == {n: after[n] for n in before} | {"Measures": ""}
    assert {*after} - {*before} == {"MSSSIM", "SEMSSSIM", "MSSSIMFloor"}
    assert 1 > float(after["MSSSIM"]) > float(after["MSSSIMFloor"]) and float(after["SEMSSSIM"])
    # Nobody need know it.
    forget()
    assert run("evaluate_attackers") == 0 and row("attack_performances.csv") == after
    folders = Folders(models_dir="models", results_dir="results")
    measured = [*map(str, Results(folders, "digits").rows[1])]
    assert "MSSSIM" not in measures.settings(measured, measures.reconstructions())
    assert "msssim" not in {each.name for each in measures.reconstructions()}
    # In what shows leakage, and in a figure that asks for it.
    registry.use("multiscale.py")
    attacker = AttackerSpec(attack="nearest")
    experiments = [Experiment(ClassifierSpec(max_epochs=1), (attacker,))]
    headings, _, line, floor, *_, ceiling = headline(
        experiments, Results(folders, "digits")
    ).splitlines()
    place = headings.split(" | ").index("MS-SSIM")
    assert line.split(" | ")[place].startswith(f"{float(after['MSSSIM']):.3f} ± ")
    assert floor.split(" | ")[place] == f"{float(after['MSSSIMFloor']):.3f}"
    assert ceiling.split(" | ")[place] == "1"
    rows = Results(folders, "digits").rows[1]
    shown = plots.leakage_curves(
        {"nearest": rows}, "Seed", "seed", "one", measures=[measures.named("msssim")]
    )
    (axis,) = shown.axes
    assert axis.get_ylabel() == "MS-SSIM (higher: leaks more)"
    lowest = [line for line in axis.lines if line.get_label() == "floor: mean image"]
    assert lowest[0].get_ydata() == pytest.approx(2 * [float(after["MSSSIMFloor"])])
    plots.plt.close(shown)


def test_a_metric_has_columns_of_its_own(
    plugged: Path, classifier_file: Callable[..., Path], attacker_file: Callable[..., Path]
) -> None:
    code = EXAMPLES["multiscale.py"]
    Path("multiscale.py").write_text(code.replace('column = "MSSSIM"', 'column = "SSIM"'))
    registry.use("multiscale.py")
    with pytest.raises(UsageError, match="metrics ssim and msssim both have the column SSIM;"):
        known()
    forget()
    Path("another.py").write_text(code.replace('column = "MSSSIM"', 'column = "Seed"'))
    registry.use("another.py")
    path = attacker_file(plugged, classifier_file(plugged))
    with pytest.raises(UsageError, match="a metric has the column Seed, which says something"):
        attacker_row(path, plugged, "data", None, 8)


def test_options_come_from_a_file_and_what_is_typed_counts_more(
    plugged: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.toml").write_text("noise_scale = 0.5\nmax-epochs = 1\nconstant_rate = true\n")
    assert run("train_model --config mine.toml --noise_scale 0.2") == 0
    made = Path(capsys.readouterr().out.strip())
    assert made.name == "digits_02noise_00nopeek_constantrate_1epochs_epoch=00.ckpt"


def test_a_file_of_options_is_never_overlooked(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind a bare word it might be that of a command below, and where there is none it would be ignored."""
    assert main(["report", "audit.json", "--config", "mine.toml"]) == 2
    assert "--config stands directly behind the command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--plugin", "--plugin names nothing; give it a file"),
        ("--plugin none.py", "none.py (No such file"),
        ("--plugin empty.py", "holds no part"),
        ("--plugin broken.py", "is no Python"),
        ("--plugin taken.py", "brings the defence noise, which there is already"),
        ("--plugin strange.py", "cannot be read from its source"),
        ("--config none.toml", "there is no none.toml"),
        ("--config broken.toml", "damaged or not a TOML file"),
        ("--config tabled.toml", "has a table [noise]"),
        ("--like nobody", "unknown classifier 'nobody'"),
    ],
)
def test_files_that_will_not_do_are_refused(
    plugged: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = EXAMPLES["rounding.py"]
    for name, content in {
        "empty.py": "x = 1\n",
        "broken.py": "def (:\n",
        "taken.py": declared.replace('key = "grid"', 'key = "noise"'),
        "strange.py": declared.replace("option(0.0,", "option(1 / 3,"),
        "broken.toml": "a = = 1",
        "tabled.toml": "[noise]\nscale = 1\n",
    }.items():
        Path(name).write_text(content)
    assert run(f"train_model {words}") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in " ".join(line.split()) and "Traceback" not in line


def test_a_part_whose_dependency_is_missing_is_listed_and_breaks_nothing(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("lacking.py").write_text("import nowhere_to_be_found\n" + EXAMPLES["rounding.py"])
    assert main(["parts", "--plugin", "lacking.py"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not here: the defence grid cannot be used here: No module named 'nowhere" in said
    assert run("train_model --plugin lacking.py --max_epochs 1") == 0
    assert run("train_model --plugin lacking.py --max_epochs 1 --grid_step 1") == 2
    assert "install what it needs" in capsys.readouterr().err.splitlines()[-1]


def test_a_later_version_of_a_part_is_another_part(
    plugged: Path, few: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "train_model --plugin rounding.py --max_epochs 1 --grid_step 0.25"
    assert run(words) == 0
    old = Path(capsys.readouterr().out.strip())
    later = EXAMPLES["rounding.py"].replace('key = "grid"', 'key = "grid"\n    version = 2')
    Path("rounding.py").write_text(later)
    registry.forget()
    assert run(words) == 0
    new = Path(capsys.readouterr().out.strip())
    assert new != old and "_gridv2" in new.name
    with pytest.raises(Exception, match="version 1 of the defence grid is not known here, only 2"):
        checkpoints.load_classifier(old)
    kept = later.replace("version = 2", "version = 2\n    earlier = (1,)")
    Path("rounding.py").write_text(kept)
    registry.forget()
    (part,) = checkpoints.load_classifier(old)[1].active
    assert (part.present, part.was) == (1, 1)
    (part,) = checkpoints.load_classifier(new)[1].active
    assert (part.present, part.was) == (2, 0)
    registry.forget()


def test_settings_of_parts_travel_to_other_processes(plugged: Path) -> None:
    import pickle

    registry.use("rounding.py")
    spec = ClassifierSpec(grid_step=0.25, nopeek_weight=0.5)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert plain(spec)["grid_step"] == 0.25 and "grid_step" in plain(spec)
    assert "grid_step" not in plain(ClassifierSpec())
    assert AttackerSpec(model_noise=1.0).changes == (("noise_scale", 1.0),)
    registry.use("neighbours.py")
    attacker = AttackerSpec(attack="neighbours", neighbours_count=7)
    assert pickle.loads(pickle.dumps(attacker)) == attacker and attacker.method.count == 7
    assert plain(attacker)["neighbours_count"] == 7
    assert "neighbours_count" not in plain(AttackerSpec())


def test_a_command_below_a_command_keeps_options_of_its_own() -> None:
    words = ["secure", "query", "--config", "cluster.toml", "--images", "digits"]
    assert given(words) == words
