"""Tables read through all settings: what differs is never averaged, and every defence is shown under its own name."""

import csv
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from invented import write_tables
from matplotlib.figure import Figure
from matplotlib.text import Text

from dpsnn import parts, registry
from dpsnn.errors import UsageError
from dpsnn.evaluation import measures, tables
from dpsnn.evaluation.apart import label_points, thin_ticks
from dpsnn.evaluation.legends import defences, distinct, family, legend
from dpsnn.evaluation.report import plt
from dpsnn.evaluation.results import Results
from dpsnn.evaluation.summary import interval, write_summaries
from dpsnn.parts import Part
from dpsnn.runner.experiment import Experiment
from dpsnn.runner.train import Folders
from dpsnn.specs import AttackerSpec, ClassifierSpec, replace
from dpsnn.studies.titcombe import figures, groups
from dpsnn.studies.titcombe.headline import markdown
from dpsnn.studies.titcombe.paper import write_paper

PLUGIN = '''
from dataclasses import dataclass
from dpsnn.defences.base import Defence
from dpsnn.parts import option

@dataclass(frozen=True, kw_only=True)
class Damping(Defence):
    """Make every value smaller."""
    key = "damp"
    factor: float = option(0.0, "by how much")
'''


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.PLUGINS, "")
    (tmp_path / "damp.py").write_text(PLUGIN)
    registry.use(tmp_path / "damp.py")


# ---------------------------------------------------------------- from a row to its parts


def settings_of(key: str) -> list[Part]:
    """The part with its first setting alone, and with each further number or switch off its default as well."""
    kind = parts.find("defence", key)

    def off_default(made: parts.Option, **others: Any) -> Part:
        kinds: dict[Any, tuple[Any, ...]] = {bool: (True,), float: (0.25, 2.0), str: ("float16",)}
        for value in kinds.get(made.kind, (3,)):
            if value != made.default:
                try:
                    part: Part = kind(**others, **{made.field: value})
                    return part
                except UsageError:
                    continue
        raise AssertionError(f"no value of {made.name} was taken")

    (options,) = (each.options for each in parts.declared("defence") if each.key == key)
    plain = off_default(options[0])
    own = {options[0].field: getattr(plain, options[0].field)}
    numbers = [made for made in options[1:] if made.kind is not str]
    return [plain, *(off_default(made, **own) for made in numbers)]


@pytest.mark.parametrize("key", [each.key for each in parts.declared("defence")])
def test_a_row_gives_its_parts_back(key: str) -> None:
    for part in settings_of(key):
        told = part.columns(part.flattened())  # as it was set, so it came out
        row = {column: tables.cell(value) for column, value in told.items()}
        assert defences(row) == (part,)
        assert defences(pd.DataFrame([told]).to_dict("records")[0]) == (part,)
        assert legend(defences(row)) == part.legend() != ""


def test_legends_are_those_of_the_parts_and_none_without() -> None:
    row = {"NoiseScale": "0.5", "NopeekWeight": "0.5", "GaussianStd": "0", "TrainNoiseScale": "0"}
    assert legend(defences(row)) == "noise 0.5 + NoPeek 0.5"
    assert legend(defences(row, trained=True)) == "NoPeek 0.5"
    assert family(defences(row)) == "noise and NoPeek"
    assert legend(defences({"Model": "of an older version"})) == "none"
    with pytest.raises(UsageError, match="column NoiseScale has 'loud', no number"):
        defences({"NoiseScale": "loud"})


def test_legends_say_more_only_where_they_would_be_equal() -> None:
    weak, squared = ({"NopeekWeight": "0.5", "NopeekExponent": power} for power in ("1", "2"))
    used = [(defences(row), (), f"model{i}") for i, row in enumerate((weak, squared, {}, {}))]
    assert distinct(used) == ["NoPeek 0.5", "NoPeek 0.5 (exponent 2)", "none", "model3"]
    assert distinct(used[1:3]) == ["NoPeek 0.5", "none"]


# ---------------------------------------------------------------- what differs


def both(**other: Any) -> Any:
    """A group: noise 0.5, and the same with something else, attacked alike."""

    def group(base: ClassifierSpec, attacker: AttackerSpec) -> list[Experiment]:
        noisy = replace(base, noise_scale=0.5)
        return [Experiment(s, (attacker,)) for s in (noisy, replace(noisy, **other))]

    return group


DIFFERENCES = [
    ({"gaussian_std": 0.5}, "noise 0.5 + Gaussian noise 0.5"),
    ({"suppress_sparsity": 0.5}, "noise 0.5 + suppress 0.5"),
    ({"dp_noise_multiplier": 2.0}, "noise 0.5 + DP-SGD 2"),
    ({"damp_factor": 0.5}, "noise 0.5 + damp 0.5"),
    ({"network": "mobile"}, ""),
    ({"fixed_order": True}, ""),
]


def by_seed(folders: Folders, table: str) -> list[dict[str, str]]:
    write_summaries(folders.results_dir)
    path = Path(folders.results_dir) / "quantitative_measures" / f"{table}_by_seed.csv"
    return list(csv.DictReader(path.read_text("utf-8").splitlines()))


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(("other", "name"), DIFFERENCES, ids=lambda value: str(value))
def test_two_defences_are_never_two_seeds_of_one(
    tmp_path: Path, other: dict[str, Any], name: str
) -> None:
    group = both(**other)
    folders = write_tables(tmp_path, 0, 1, group=group)
    for table in ("model_performances", "attack_performances"):
        assert [line["Seeds"] for line in by_seed(folders, table)] == ["2", "2"]
    write_paper(folders, "digits")
    shown = (tmp_path / "results" / "defences_digits.md").read_text("utf-8").splitlines()[2:-2]
    texts = [f"| {text}" for text in ("noise 0.5", name) if text]
    assert [line.split(" | ")[0] for line in shown] == texts
    plain = tables.read(tables.models_table(folders.results_dir))[::2]
    accuracies = [float(row["TestAcc"]) for row in plain]
    mean = f"{sum(accuracies) / 2:.2f} ± {interval(accuracies):.2f}"
    assert shown[0].split(" | ")[1] == mean
    (line,) = headline_of(folders, group(ClassifierSpec(), AttackerSpec())[:1])
    assert line[:4] == ["noise 0.5", "adaptive", "2 seeds", mean]


@pytest.mark.parametrize("column", ["GaussianStd", "Network", "FixedOrder", "DampFactor"])
def test_columns_tell_what_names_do_not(tmp_path: Path, column: str) -> None:
    """Also that of a plug-in which is not there; a row that lacks the column has it empty."""
    table = tables.models_table(tmp_path)
    rows: list[dict[str, object]] = [
        {"Model": f"m{i}", "NoiseScale": 0.5, "Seed": i, "TestAcc": 90.0} for i in range(4)
    ]
    for row in rows[2:]:
        tables.upsert(table, [{**row, column: "0.5"}], tables.CLASSIFIER_KEY)
    tables.upsert(table, rows[:2], tables.CLASSIFIER_KEY)
    found = by_seed(Folders(results_dir=str(tmp_path)), "model_performances")
    assert [(line[column], line["Seeds"]) for line in found] == [("0.5", "2"), ("", "2")]


def headline_of(folders: Folders, experiments: list[Experiment]) -> list[list[str]]:
    text = markdown(experiments, Results(folders, "digits"))
    return [line.strip("| ").split(" | ") for line in text.splitlines()[2:-2]]


@pytest.mark.usefixtures("plugged")
def test_what_a_plug_in_said_is_told_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write_tables(tmp_path, 0, 1, group=both(damp_factor=0.5))
    monkeypatch.setenv(registry.PLUGINS, "")
    results = Results(folders, "digits")
    assert len(results.models) == 2, "the published defences alone"
    groups = results.every.defended()
    assert [group.legend for group in groups] == ["noise 0.5", "noise 0.5 + DampFactor 0.5"]
    assert [len(group.models) for group in groups] == [2, 2]
    assert [line["Seeds"] for line in by_seed(folders, "model_performances")] == ["2", "2"]


def test_a_row_of_an_older_version_is_another_seed_of_its_defence(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, 1, group="plain")
    table = tables.models_table(folders.results_dir)
    old, new = tables.read(table)
    lacking = ("GaussianStd", "NopeekClean", "ConstantRate")
    tables.write(table, [{**old, **dict.fromkeys(lacking, "")}, {**new, "QuantiseBits": "0"}])
    (group,) = Results(folders, "digits").every.defended()
    assert (group.legend, group.parts, len(group.models)) == ("none", (), 2)


def test_a_name_that_says_more_than_the_columns_is_another_model(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, group="plain")
    table = tables.models_table(folders.results_dir)
    (row,) = tables.read(table)
    name = "digits_00noise_00nopeek_federated5"
    tables.upsert(table, [{**row, "Model": f"{name}_epoch=00"}], tables.CLASSIFIER_KEY)
    results = Results(folders, "digits")
    assert [*results.models.Model] == [row["Model"]]
    assert [g.legend for g in results.every.defended()] == ["none", name]


def test_without_a_usual_classifier_there_are_no_rows(tmp_path: Path) -> None:
    group = both(fixed_order=True)
    folders = write_tables(tmp_path, 0, group=lambda b, a: group(replace(b, network="mobile"), a))
    results = Results(folders, "digits")
    assert results.models.empty and results.attacks().empty and results.every.defended() == []
    assert not [*results.of(ClassifierSpec())][0].size


@pytest.mark.parametrize("network", ["titcombe", "mobile"])
def test_a_headline_prints_its_own_network(tmp_path: Path, network: str) -> None:
    base = ClassifierSpec(network=network)
    own = groups.headline(base, AttackerSpec())
    folders = write_tables(tmp_path, 0, group="headline")
    write_tables(tmp_path, 0, group=lambda b, a: groups.headline(replace(b, network="mobile"), a))
    table = pd.read_csv(tables.models_table(folders.results_dir))
    lines = headline_of(folders, own)
    firsts = [line for line in lines if line[1] == "adaptive"]
    assert len(lines) == sum(len(each.attackers) for each in own) and len(firsts) == len(own)
    for line, experiment in zip(firsts, own):
        spec = experiment.classifier
        (row,) = table[
            (table.Network == network)
            & (table.NoiseScale == spec.noise_scale)
            & (table.NopeekWeight == spec.nopeek_weight)
        ].itertuples()
        assert line[2:4] == ["images", f"{row.TestAcc:.2f} ± {1.96 * 0.1:.2f}"]


def test_every_defence_has_its_point(tmp_path: Path) -> None:
    folders = write_tables(tmp_path, 0, group="noise")
    write_tables(tmp_path, 0, group=both(gaussian_std=0.5))
    write_tables(tmp_path, 0, group=both(network="mobile"))
    results = Results(folders, "digits")
    figure = figures.pareto(results)
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"noise", "noise and Gaussian noise"} <= shown and "no defence" not in shown
    assert [len(c.lines[0].get_xdata()) for c in figure.axes[0].containers] == [1] * 7
    named = {text.get_text() for axis in figure.axes for text in axis.texts}
    legends = {group.legend for group in results.every.defended()}
    assert "noise 0.5 + Gaussian noise 0.5" in legends
    assert named and {name for name in named if ":" not in name} <= legends
    plt.close(figure)


# ---------------------------------------------------------------- measures


EDGES = '''
from dpsnn.metrics import Metric

class Edges(Metric):
    """How many edges are right."""
    key = "edges"
    column = "Edges"
    error = ""
    label = "edges"
    digits = 2
    shown = True
'''


def test_a_metric_that_says_so_is_shown_where_leakage_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = write_tables(tmp_path, 0, 1, group="noise")
    table = tables.attackers_table(folders.results_dir)
    values = [0.01 * i for i in range(len(tables.read(table)))]
    rows = [
        {**row, "Edges": value, "EdgesFloor": 0.25}
        for row, value in zip(tables.read(table), values)
    ]
    tables.upsert(table, rows, tables.ATTACKER_KEY)
    assert [line["Seeds"] for line in by_seed(folders, "attack_performances")] == ["2"] * 21
    assert "EdgesCI" not in by_seed(folders, "attack_performances")[0]
    monkeypatch.setenv(registry.PLUGINS, "")
    (tmp_path / "edges.py").write_text(EDGES)
    registry.use(tmp_path / "edges.py")
    line, *_ = by_seed(folders, "attack_performances")
    first, again = values[0], values[21]
    assert float(line["Edges"]) == pytest.approx((first + again) / 2) and line["EdgesCI"]
    results = Results(folders, "digits")
    text = markdown(groups.noise(ClassifierSpec(), AttackerSpec()), results).splitlines()
    assert text[0].endswith("| recognised % | edges | least MSE anybody reaches | ε |")
    assert text[2].split(" | ")[8] == f"{(first + again) / 2:.2f} ± {interval([first, again]):.2f}"
    assert text[-2].endswith("| 10.0 | 0.25 |  | 0 |")
    assert [axis.get_ylabel() for axis in figures.noise(results).axes][-1] == "edges"
    assert figures.pareto(results).axes[-1].get_xlabel() == "edges"


def test_settings_are_what_is_nothing_else() -> None:
    columns = "Model TestAcc SETestAcc AccFloor NoiseScale Seed Epoch Digest ValidatorDigest DataSource".split()
    columns += ["SecondsBatch", "Odd", "OddFloor", "SEOdd", "OddShuffled", "Unknown", "DPEpsilon"]
    assert measures.settings(columns, measures.CLASSIFIER) == ["NoiseScale", "Unknown", "DPEpsilon"]


# ---------------------------------------------------------------- labels


def boxes(texts: list[Text]) -> list[Any]:
    return [Text.get_window_extent(text) for text in texts]


def test_labels_of_points_do_not_overlap() -> None:
    figure: Figure = plt.figure()
    axis = figure.add_subplot()
    points = [(i / 100, i / 100) for i in range(12)]
    axis.plot(*zip(*points), "o")
    axis.set_xlim(-1, 1)
    texts = label_points(axis, points, [f"{i}/0.25" for i in range(12)])
    assert [text.get_text() for text in texts] == [f"{i}/0.25" for i in range(12)]
    assert not any(a.overlaps(b) for a, b in combinations(boxes(texts), 2))
    plt.close(figure)


def test_ticks_that_touch_are_left_out_or_turned() -> None:
    figure, (thinned, turned) = plt.subplots(1, 2, figsize=(3, 2))
    for axis in (thinned, turned):
        axis.set_xticks(range(4), ["a long name", "another name", "third", "a fourth name"])
    figure.draw_without_rendering()
    thin_ticks(thinned)
    thin_ticks(turned, turn=True)
    labels = thinned.get_xticklabels()
    kept = [text for text in labels if text.get_visible()]
    assert 0 < len(kept) < 4
    assert not any(a.overlaps(b) for a, b in combinations(boxes(kept), 2))
    assert {text.get_rotation() for text in turned.get_xticklabels()} == {30}
    plt.close(figure)
