"""Figures show what the tables say: values, intervals, floors and the front; what has no rows is named, not drawn."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented import write_tables
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpsnn.errors import UsageError
from dpsnn.evaluation import plots, tables
from dpsnn.evaluation.measures import named
from dpsnn.evaluation.pareto import front
from dpsnn.evaluation.results import Missing, Results
from dpsnn.evaluation.strongest import strongest_table
from dpsnn.evaluation.summary import interval
from dpsnn.networks.lenet5 import CUTS
from dpsnn.runner import figures as runner
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.omniglot import figures as figures_omniglot
from dpsnn.studies.omniglot.study import omniglot_experiments
from dpsnn.studies.suppress import figures as figures_suppress
from dpsnn.studies.suppress.study import suppress_table
from dpsnn.studies.titcombe import figures
from dpsnn.studies.titcombe.groups import GROUPS
from dpsnn.studies.titcombe.headline import DOUBLED, markdown
from dpsnn.studies.titcombe.paper import write_paper

FileMaker = Callable[..., Path]
FIGURES = runner.figures()


def points(axis: Axes, label: str) -> dict[float, float]:
    """What an axis shows under a label: x → y."""
    for container in axis.containers:
        if container.get_label() == label:
            x, y = container.lines[0].get_data()  # type: ignore[union-attr]
            return dict(zip(np.asarray(x).tolist(), np.asarray(y).tolist()))
    raise AssertionError(f"no {label}")


def heights(axis: Axes) -> dict[str, float]:
    """Label of each reference line → its height."""
    return {str(line.get_label()): float(np.asarray(line.get_ydata())[0]) for line in axis.lines}


def test_curves_show_the_rows_with_their_floor_and_ceiling(tmp_path: Path) -> None:
    results = Results(write_tables(tmp_path, 0), "digits")
    figure = figures.noise(results)
    rows = results.attacks(NopeekWeight=0.0, Kind="ridge")
    assert len(rows) == 7
    for axis, column in zip(figure.axes, ("MSE", "SSIM", "ValAccuracy")):
        expected = dict(zip(rows.TrainNoiseScale, rows[column]))
        assert points(axis, "ridge attacker") == pytest.approx(expected)
        assert column.replace("ValAccuracy", "recognised") in axis.get_ylabel()
    assert heights(figure.axes[0])["floor: mean image"] == pytest.approx(0.07)
    assert heights(figure.axes[2])["ceiling: true image"] == pytest.approx(98)
    assert len({label for _, label in legend(figure)}) == len(legend(figure)) == 8


@pytest.mark.parametrize("column", ["NopeekClean", "ConstantRate", "FixedOrder"])
def test_rows_trained_otherwise_are_no_usual_ones(tmp_path: Path, column: str) -> None:
    """Also where the table holds such rows of another data set only."""
    folders = write_tables(tmp_path, 0)
    usual = len(Results(folders, "digits").models)
    table = tables.models_table(folders.results_dir)
    row = {**tables.read(table)[0], column: "True"}
    tables.upsert(table, [{**row, "Model": "faces", "Dataset": "faces"}], tables.CLASSIFIER_KEY)
    assert len(Results(folders, "digits").models) == usual > 0
    tables.upsert(table, [row], tables.CLASSIFIER_KEY)
    assert len(Results(folders, "digits").models) == usual - 1


@pytest.mark.parametrize("usual", [True, False])
def test_a_line_is_of_the_attack_that_most_classifiers_met(tmp_path: Path, usual: bool) -> None:
    """The one of least noise met both ways of training, the others the longer one, or the shorter."""
    folders = write_tables(tmp_path, 0, group="noise")
    table = tables.attackers_table(folders.results_dir)
    rows = tables.read(table, tables.ATTACKER_KEY)

    def longer(row: dict[str, str]) -> dict[str, str]:
        return {**row, "Attacker": row["Attacker"].replace("ridge", "ridge_1doublings"), "MSE": "9"}

    ridge = [row for row in rows if row["Attack"] == "ridge"]
    first, *others = sorted(ridge, key=lambda row: float(row["TrainNoiseScale"]))
    met = [first, longer(first), *(longer(row) if usual else row for row in others)]
    tables.write(table, [row for row in rows if row["Attack"] != "ridge"] + met)
    found = points(figures.noise(Results(folders, "digits")).axes[0], "ridge attacker")
    assert len(found) == len(ridge) > 2
    assert found[float(first["TrainNoiseScale"])] == (9 if usual else float(first["MSE"]))


def legend(figure: Figure) -> list[tuple[int, str]]:
    return [(i, text.get_text()) for i, text in enumerate(figure.legends[0].get_texts())]


def test_seeds_become_a_mean_with_its_interval(tmp_path: Path) -> None:
    results = Results(write_tables(tmp_path, 0, 1, 2, group="noise"), "digits")
    rows = results.attacks(TrainNoiseScale=0.5, NopeekWeight=0.0, Kind="naive")
    assert sorted(rows.Seed) == [0, 1, 2]
    middle, half = plots.estimate(rows, named("mse"))
    assert middle == pytest.approx(rows.MSE.mean()) and half == pytest.approx(interval([*rows.MSE]))
    assert points(figures.noise(results).axes[0], "naive attacker")[0.5] == pytest.approx(middle)
    one = rows[rows.Seed == 1]
    assert plots.estimate(one, named("mse")) == (one.MSE.iloc[0], pytest.approx(1.96 * 0.001))


@pytest.mark.parametrize(
    ("draw", "x", "values"),
    [
        (figures.post_noise, "adaptive attacker", [0, 0.1, 0.5, 1, 2, 5]),
        (figures.volume, "adaptive attacker", [20, 50, 100, 250, 500, 750, 1000]),
        (figures.queries, "naive attacker", [1, 4, 16, 64]),
        (figures.nopeek, "adaptive attacker", [0, 0.05, 0.1, 0.25, 0.5, 1]),
    ],
)
def test_each_question_has_its_axis(
    tmp_path: Path, draw: Callable[[Results], Figure], x: str, values: list[float]
) -> None:
    figure = draw(Results(write_tables(tmp_path, 0), "digits"))
    assert [*points(figure.axes[0], x)] == values


def test_suppression_has_a_line_for_each_attack_with_its_floor(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0)
    results = Results(folders, "digits")
    rows = pd.read_csv(suppress_table(folders.results_dir))
    rows = rows[rows.ConstantRate.isna()]  # the others are controls
    figure = figures_suppress.suppressed(results)
    assert [axis.get_ylabel().split(" (")[0] for axis in figure.axes] == [
        "relative L2",
        "SSIM",
        "recognised by the judge %",
    ]
    for attack, label in figures_suppress.ATTACK_LABELS.items():
        one = rows[(rows.Network == "lenet5") & (rows.Cut == "fc1") & (rows.Attack == attack)]
        for axis, column in zip(figure.axes, ("RelativeL2", "SSIM", "ValAccuracy")):
            expected = dict(zip(one.SuppressSparsity, one[column]))
            assert points(axis, label) == pytest.approx(expected, rel=1e-4) and len(expected) == 5
    assert heights(figure.axes[0])["floor: mean image"] == pytest.approx(0.5)
    cuts = figures_suppress.suppressed_cuts(results).axes[0]
    assert [tick.get_text() for tick in cuts.get_xticklabels()] == list(CUTS)
    dense = rows[(rows.SuppressSparsity == 0) & (rows.Network == "lenet5")]
    shown = points(cuts, "decoder, 0 % silent")
    values = dense[dense.Attack == "decoder"].set_index("Cut").RelativeL2
    assert shown == pytest.approx({i: values[cut] for i, cut in enumerate(CUTS)}, rel=1e-4)


def test_the_wire_shows_its_shuffled_floor(tmp_path: Path) -> None:
    figure = figures.wire(Results(write_tables(tmp_path, 0), "digits"))
    assert heights(figure.axes[0])["floor: shuffled pairs"] == pytest.approx(0.02)
    assert [*points(figure.axes[0], "noise 0")] == [0, 0.05, 0.1, 0.25, 0.5, 1]
    assert [*points(figure.axes[0], "noise 0.2")] == [0, 0.1, 0.25, 0.5]


def test_dp_sgd_is_shown_beside_its_undefended_sibling_only(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, group="noise")
    write_tables(tmp_path, 0, group=omniglot_experiments)
    results = Results(folders, "digits")
    figure = figures_omniglot.dp_sgd(results)
    models, attacks = results.private()
    assert sorted(models.DPNoiseMultiplier) == [0, 0.3, 0.5, 0.7] and len(attacks) == 12
    for label, column in (("training", "MeanTrainAcc"), ("test", "TestAcc")):
        expected = dict(zip(models.DPNoiseMultiplier, models[column]))
        shown = points(figure.axes[0], f"accuracy on {label} images")
        assert shown == pytest.approx(expected)
    assert heights(figure.axes[0])["floor: most frequent class"] == pytest.approx(10)
    deconv = attacks[attacks.Decoder == "deconv"]
    expected = dict(zip(deconv.DPNoiseMultiplier, deconv.SSIM))
    assert points(figure.axes[2], "adaptive deconv attacker") == pytest.approx(expected)
    below = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert below == ["no\nDP-SGD", "0.3\nε = 10", "0.5\nε = 6", "0.7\nε = 4.29"]
    # Figures of the defences on the wire leave private classifiers out.
    assert not set(results.models.Model) & set(models[models.DPNoiseMultiplier > 0].Model)


def test_the_front_is_what_nothing_beats() -> None:
    generator = random.Random(1)
    cloud = [(generator.random(), generator.random()) for _ in range(60)]
    beaten = {
        i
        for i, (x, y) in enumerate(cloud)
        if any(a >= x and b >= y and (a, b) != (x, y) for a, b in cloud)
    }
    kept = front(cloud)
    assert set(kept) == set(range(60)) - beaten
    assert [cloud[i][0] for i in kept] == sorted(cloud[i][0] for i in kept)
    assert front([(1, 1), (1, 2), (0, 2)]) == [1]


def test_a_defence_without_a_measure_is_left_out_of_its_panel(tmp_path: Path) -> None:
    """Its rows are of an earlier version, which did not measure it."""
    folders = write_tables(tmp_path, 0)
    table = tables.attackers_table(folders.results_dir)
    rows = tables.read(table, tables.ATTACKER_KEY)
    without = {row["Model"] for row in rows if float(row["NoiseScale"]) == 0.5}
    for row in rows:
        if row["Model"] in without:
            row["SSIM"] = ""
    tables.write(table, rows)
    whole, part = figures.pareto(Results(folders, "digits")).axes[:2]
    missing = len(whole.containers) - len(part.containers)
    assert missing == len(without) > 0


def test_the_pareto_plot_takes_the_strongest_attacker_of_each_defence(tmp_path: Path) -> None:
    results = Results(write_tables(tmp_path, 0), "digits")
    figure = figures.pareto(results)
    rows = results.attacks(TrainNoiseScale=0.0, NopeekWeight=0.0)
    assert len(rows) == 4
    (shown,) = points(figure.axes[0], "no defence")
    assert shown == pytest.approx(rows.MSE.min())
    (shown,) = points(figure.axes[1], "no defence")
    assert shown == pytest.approx(rows.SSIM.max())
    names = {text for _, text in legend(figure)}
    assert {"no defence", "noise", "NoPeek", "noise and NoPeek"} <= names
    # The classifiers that no other beats are named, and only they.
    mse = results.attacks().groupby("Model").MSE.min()
    kept = [
        (row.NoiseScale, row.NopeekWeight)
        for row in results.models.itertuples()
        if not any(
            other.TestAcc > row.TestAcc and mse[other.Model] > mse[row.Model]
            for other in results.models.itertuples()
        )
    ]
    # What has a colon is a floor or a ceiling.
    named = [text.get_text() for text in figure.axes[0].texts if ":" not in text.get_text()]
    whole = [(f"noise {b:g}" if b else "", f"NoPeek {w:g}" if w else "") for b, w in kept]
    assert sorted(named) == sorted(" + ".join(filter(None, both)) or "none" for both in whole)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Tables of everything."""
    folder = tmp_path_factory.mktemp("drawn")
    write_tables(folder, 0)
    return write_tables(folder, 0, group=omniglot_experiments)


@pytest.mark.slow
def test_every_figure_is_drawn_and_what_has_no_checkpoint_is_named(
    drawn: Folders,
    classifier_file: FileMaker,
    attacker_file: FileMaker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for experiment in GROUPS["volume"](ClassifierSpec(), AttackerSpec()):
        target = classifier_file(Path(drawn.models_dir))
        for attacker in experiment.attackers:
            attacker_file(Path(drawn.models_dir), target, data_pct=attacker.data_pct)
    written = runner.draw(drawn, "digits")
    pictures = {"defence", "post_noise", "queries", "epsilon", "suppression"}
    missing = {f"reconstructions_by_{name}" for name in pictures}
    assert [path.stem.removesuffix("_digits") for path in written] == [
        name for name in FIGURES if name not in missing
    ]
    assert all(path.stat().st_size > 5000 for path in written)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        f"{name}_digits.png" for name in FIGURES if name in missing
    ]


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "pareto"])
def test_a_figure_without_rows_says_what_is_missing(tmp_path: Path, name: str) -> None:
    results = Results(write_tables(tmp_path, 0, group="plain"), "digits")
    with pytest.raises(Missing):
        FIGURES[name](results)


def test_no_results_at_all_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no results in .*model_performances.csv; run ./main.sh"):
        Results(Folders(results_dir=str(tmp_path)), "digits")
    with pytest.raises(UsageError, match="no results for mnist"):
        Results(write_tables(tmp_path, 0, group="plain"), "mnist")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_paper_in_two_tables(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, 1)
    written = write_paper(folders, "digits")
    assert [path.name for path in written] == ["defences_digits.md", "questions_digits.md"]
    defences, questions = (path.read_text("utf-8").splitlines() for path in written)
    results = Results(folders, "digits")

    assert len(defences) == 2 + 24 + 2
    (line,) = (cells(text) for text in defences if text.startswith("| noise 0.2 |"))
    rows = results.attacks(TrainNoiseScale=0.2, NopeekWeight=0)
    for column, name in ((3, "naive"), (4, "ridge"), (5, "adaptive")):
        values = [*rows[rows.Kind == name].MSE]
        assert line[column] == f"{sum(values) / 2:.4f} ± {interval(values):.4f}"
    assert line[-1] == "5,000"
    assert cells(defences[-2])[0] == "*floor*" and cells(defences[-2])[3:7] == ["0.0700"] * 4
    assert cells(defences[-1])[0] == "*ceiling*" and cells(defences[-1])[7:11] == ["98.0"] * 4

    names = [cells(text)[0] for text in questions[2:]]
    assert names[:5] == [f"noise {b} set after training" for b in ("0.1", "0.5", "1", "2", "5")]
    assert [name for name in names if "owns" in name] == [
        *(f"attacker owns {n} images" for n in ("20", "50", "100", "250", "500", "750", "1,000")),
        *(f"attacker owns images of {name}" for name in ("emnist", "omniglot28")),
    ]
    sent = ["noise 1, 1 transmission", *(f"noise 1, {n} transmissions" for n in (4, 16, 64))]
    assert names[-6:] == [*sent, "*floor*", "*ceiling*"]
    (line,) = (cells(text) for text in questions if "owns images of emnist" in text)
    (values,) = (r for r in [results.attacks(Surrogate="emnist")] if set(r.Kind) == {"adaptive"})
    assert line[1] == f"{values.TargetAcc.mean():.1f}"
    assert line[2] == "" and line[3].startswith(f"{values.MSE.mean():.4f} ± ")


def test_a_table_of_the_paper_without_rows_is_not_written(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, group="nopeek")
    assert [path.name for path in write_paper(folders, "digits")] == ["defences_digits.md"]
    assert not (tmp_path / "results" / "questions_digits.md").exists()


def test_the_headline_has_a_line_for_the_strongest_of_several(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, group="headline")
    experiments = GROUPS["headline"](ClassifierSpec(), AttackerSpec())
    results = Results(folders, "digits")
    names = [next(results.of(e.classifier)).Model.iloc[0] for e in experiments]
    usual = {"Queries": 1, "Images": 100, "MSE": 0.0123, "SEMSE": 0.001, "Epsilon": math.inf}
    lines = [usual | {"Model": names[0], "Tried": 4}, usual | {"Model": names[1], "Tried": 1}]
    lines.append(usual | {"Model": names[0], "Tried": 9, "Queries": 4})
    changed = {"NoiseScale": 5, "TrainNoiseScale": 0, "Tried": 9}
    tables.write(
        strongest_table(folders.results_dir), [*lines, usual | {"Model": names[0]} | changed]
    )
    shown = [line for line in markdown(experiments, results).splitlines() if "strongest" in line]
    # Of one attacker nobody was chosen; noise set later, or more transmissions, is another question.
    (line,) = shown
    assert line.startswith("| none | strongest of 4 | images |") and "0.0123 ± 0.0020" in line


def test_the_headline_says_what_longer_training_would_bring(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, 1, group="headline")
    experiments = GROUPS["headline"](ClassifierSpec(), AttackerSpec())
    table = tables.attackers_table(folders.results_dir)
    rows = tables.read(table, tables.ATTACKER_KEY)
    assert DOUBLED not in markdown(experiments, Results(folders, "digits"))
    for row in rows:
        row["Doubling"] = (
            {"0": "0.012", "1": "0.031"}[row["Seed"]] if "doublings" in row["Attacker"] else ""
        )
    tables.write(table, rows)
    heading, _, *lines = markdown(experiments, Results(folders, "digits")).splitlines()
    place = heading.split(" | ").index(DOUBLED)
    shown = {line.split(" | ")[1]: line.split(" | ")[place] for line in lines}
    assert shown["adaptive"] == "3.1" and shown["ridge"] == shown["mean image"] == ""


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_headline_gives_intervals_over_seeds_or_over_images(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    folders = write_tables(tmp_path, *seeds, group="headline")
    # Of what was run now it takes the settings alone: rows of other seeds were made before.
    experiments = GROUPS["headline"](ClassifierSpec(), AttackerSpec())
    lines = markdown(experiments, Results(folders, "digits")).splitlines()
    assert len(lines) == 2 + 3 + 4 + 6 + 3 + 6 + 2
    cells = [cell.strip() for cell in lines[5].strip("|").split("|")]
    over = f"{len(seeds)} seeds" if len(seeds) > 1 else "images"
    assert cells[:3] == ["noise 0.5", "adaptive", over] and cells[-1] == "2,000"
    table = pd.read_csv(tables.attackers_table(folders.results_dir))
    rows = table[(table.TrainNoiseScale == 0.5) & table.Adaptive & (table.Attack == "decoder")]
    assert len(rows) == len(seeds)
    spread = interval([*rows.MSE]) if len(seeds) > 1 else 1.96 * 0.001
    assert cells[5] == f"{rows.MSE.mean():.4f} ± {spread:.4f}"
    floor = "| *floor* | mean image |  | 10.00 | 0.020 | 0.0700 | 0.300 | 10.0 |"
    assert lines[-2].startswith(floor)
