"""Figures are read at once: nothing covers a text, floors have dashes and names of their own, colours say something."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from invented import write_tables
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from dpsnn.attacks.mi_face import Inversion
from dpsnn.evaluation import plots
from dpsnn.evaluation.measures import named
from dpsnn.evaluation.pareto import pareto
from dpsnn.evaluation.report import plt
from dpsnn.evaluation.results import Results
from dpsnn.folders import Folders
from dpsnn.stored import Stored
from dpsnn.studies.faces import figures as figures_faces
from dpsnn.studies.faces.measures import Target
from dpsnn.studies.faces.study import ATTACKS
from dpsnn.studies.omniglot import figures as figures_omniglot
from dpsnn.studies.omniglot.study import omniglot_experiments
from dpsnn.studies.suppress import figures as figures_suppress
from dpsnn.studies.titcombe import figures

COMMITTED = Path(__file__).parents[1] / "results"
MSE, RECOGNISED = named("mse"), named("recognised")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Tables of everything."""
    folder = tmp_path_factory.mktemp("looks")
    write_tables(folder, 0)
    return Results(write_tables(folder, 0, group=omniglot_experiments), "digits")


def boxes(texts: list[Text]) -> list[Any]:
    return [Text.get_window_extent(text) for text in texts]


def reference_lines(axis: Axes) -> list[Line2D]:
    return [line for line in axis.lines if line.get_gid() == "reference"]


def dashes(line: Line2D) -> Any:
    return line._unscaled_dash_pattern  # type: ignore[attr-defined]


def test_labels_of_the_committed_front_cover_nothing() -> None:
    figure = figures.pareto(Results(Folders(results_dir=str(COMMITTED)), "mnist"))
    for axis in figure.axes:
        texts = boxes(list(axis.texts))
        assert len(texts) > 3
        assert not any(a.overlaps(b) for a, b in combinations(texts, 2))
        # Within the panel, and upon no point.
        for box in texts:
            assert np.all(box.min >= axis.bbox.min - 1) and np.all(box.max <= axis.bbox.max + 1)
        for container in axis.containers:
            (point,) = axis.transData.transform(container.lines[0].get_xydata())
            assert not any(box.contains(*point) for box in texts)
    plt.close(figure)


@pytest.mark.parametrize(
    "draw", [figures.noise, figures.wire, figures.shift, figures.pareto, figures_omniglot.dp_sgd]
)
def test_floors_and_ceilings_are_told_apart_and_named_where_they_are(
    results: Results, draw: Callable[[Results], Figure]
) -> None:
    figure = draw(results)
    found: dict[str, set[Any]] = {}
    for axis in figure.axes:
        lines = reference_lines(axis)
        written = {text.get_text() for text in axis.texts if ":" in text.get_text()}
        assert written == {line.get_label() for line in lines}
        for line in lines:
            found.setdefault(str(line.get_label()), set()).add(str(dashes(line)))
    assert found and all(len(each) == 1 for each in found.values())
    assert len(set.union(*found.values())) == len(found)
    plt.close(figure)


def test_a_floor_of_anyones_has_dashes_of_its_own() -> None:
    rows = pd.DataFrame({"x": [0.0, 1.0], "MSE": [0.1, 0.2], "A": 0.3, "B": 0.4, "C": 0.5})
    others = [replace(MSE, floor=c, floor_label=f"floor: {c}") for c in "AB"]
    others.append(replace(MSE, floor="C", ceiling="A"))
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, 3)
        for axis, measure in zip(axes, others):
            plots.curves(axis, {"one": rows}, "x", measure, "x")
        plots.finish(figure, "three floors and a ceiling")
    lines = [line for axis in axes for line in reference_lines(axis)]
    assert len({str(dashes(line)) for line in lines}) == len(lines) == 4
    plt.close(figure)


def test_floors_are_seen_upon_bars(results: Results) -> None:
    figure = figures.shift(results)
    axis = figure.axes[0]
    floors = reference_lines(axis)
    under = [line for line in axis.lines if line.get_color() == "white"]
    assert len(floors) == len(under) == len(axis.patches) == 3
    for floor, white in zip(floors, under):
        assert np.array_equal(floor.get_xydata(), white.get_xydata())
        assert floor.get_zorder() > white.get_zorder() > max(p.get_zorder() for p in axis.patches)
        assert floor.get_linewidth() < white.get_linewidth()
    assert {patch.get_edgecolor() for patch in axis.patches} == {(1.0, 1.0, 1.0, 1.0)}
    plt.close(figure)


def test_an_axis_spans_what_it_shows(results: Results) -> None:
    figure = figures_omniglot.dp_sgd(results)
    for axis in figure.axes:
        heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines])
        for collection in axis.collections:
            assert isinstance(collection, LineCollection)
            heights = np.append(heights, np.concatenate(collection.get_segments())[:, 1])
        low, high = np.nanmin(heights), np.nanmax(heights)
        room = 0.2 * (high - low)
        assert low - room < axis.get_ylim()[0] < low and high < axis.get_ylim()[1] < high + room
    plt.close(figure)


def test_pairs_have_the_colour_of_the_first_and_the_line_of_the_second() -> None:
    pairs = [(attack, share) for attack in "abc" for share in ("0 %", "95 %")]
    found = dict(zip(pairs, plots.looks(pairs)))
    for attack in "abc":
        dense, sparse = found[attack, "0 %"], found[attack, "95 %"]
        assert dense["color"] == sparse["color"] and dense["marker"] == sparse["marker"]
        assert "markerfacecolor" not in dense and sparse["markerfacecolor"] == "white"
    assert len({look["color"] for look in found.values()}) == 3
    lines = {
        share: {found[pair]["linestyle"] for pair in pairs if pair[1] == share}
        for _, share in pairs
    }
    assert [len(each) for each in lines.values()] == [1, 1]
    assert lines["0 %"] != lines["95 %"]
    # Single names differ in everything.
    alone = plots.looks(["a", "b", "c"])
    assert all(
        len({str(look[key]) for look in alone}) == 3 for key in ("color", "marker", "linestyle")
    )


def test_cuts_show_one_colour_for_each_attack(results: Results) -> None:
    figure = figures_suppress.suppressed_cuts(results)
    shown = {c.get_label(): c.lines[0] for c in figure.axes[0].containers}
    assert len(shown) == 8 and len({line.get_color() for line in shown.values()}) == 4
    for label, line in shown.items():
        assert line.get_linestyle() == ("-" if "0 % silent" == label.split(", ")[1] else "--")
    plt.close(figure)


def test_what_is_below_the_floor_and_yet_recognised_is_explained() -> None:
    row = {"Attack": "sign", "Cut": "fc1", "SSIM": 0.1, "SSIMFloor": 0.33, "ValAccuracy": 89.2}
    row |= {"ValAccuracyFloor": 11.0, "ValAccuracyCeiling": 99.0}
    better = {**row, "Attack": "decoder", "SSIM": 0.9}
    note = figures_suppress._below_the_floor(pd.DataFrame([better, row]))
    assert "sign descent (published) from fc1 has an SSIM of 0.10, the mean image 0.33" in note
    assert "the judge recognises 89 %" in note
    unseen = {**row, "ValAccuracy": 40.0}
    assert figures_suppress._below_the_floor(pd.DataFrame([better, unseen])) == ""


# ---------------------------------------------------------------- the front


def families(recognised: list[float]) -> dict[str, list[tuple[str, pd.DataFrame, pd.DataFrame]]]:
    members = []
    for i, share in enumerate(recognised):
        attack: dict[str, object] = {"Kind": "adaptive", "MSE": 0.01 * (i + 1), "MSEFloor": 0.07}
        attack |= {"ValAccuracy": share, "ValAccuracyFloor": 10.0, "ValAccuracyCeiling": 99.0}
        classifier = pd.DataFrame([{"TestAcc": 99.0 - i}])
        members.append((f"noise {i}", classifier, pd.DataFrame([attack])))
    return {"noise": members}


@pytest.mark.parametrize(("recognised", "panels"), [([98.0, 97.2, 97.0], 1), ([98.0, 97, 74], 2)])
def test_a_measure_that_tells_nothing_apart_is_left_out_in_words(
    recognised: list[float], panels: int
) -> None:
    figure = pareto(families(recognised), "three")
    assert len(figure.axes) == panels
    note = figure.legends[0].get_title().get_text()
    if panels == 1:
        assert "recognised % is 97.0 to 98.0; floor: most frequent class, 10.0" in note
    else:
        assert note == "bars: 95 % intervals over images"
        # The floor is far from all points: it is told, and does not flatten them.
        (line,) = figure.axes[1].get_xlabel().splitlines()[1:]
        assert line == "floor: most frequent class, 10.0, is further to the right"
        assert min(figure.axes[1].get_xlim()) > 50
        assert [str(x.get_label()) for x in reference_lines(figure.axes[1])] == [
            "ceiling: true image"
        ]
    plt.close(figure)


def test_points_of_the_front_are_filled_and_joined_by_steps() -> None:
    members = families([98.0, 97.0, 74.0])["noise"]
    beaten = ("noise 9", pd.DataFrame([{"TestAcc": 90.0}]), members[1][2])
    figure = pareto({"noise": [*members, beaten]}, "four")
    axis = figure.axes[0]
    filled = [c.lines[0].get_markerfacecolor() != "white" for c in axis.containers]
    assert filled == [True, True, True, False]
    (front,) = [line for line in axis.lines if str(line.get_label()).startswith("filled")]
    steps = [(0.01, 99), (0.02, 99), (0.02, 98), (0.03, 98), (0.03, 97)]
    assert front.get_xydata() == pytest.approx(np.array([(x, y) for x, y in steps]))
    assert [text.get_text() for text in axis.texts] == ["noise 0", "noise 1", "noise 2"]
    plt.close(figure)


# ---------------------------------------------------------------- people


def test_people_are_shown_with_the_weakest_and_the_strongest_guarantee_and_both_attacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The share beside each row is the mean over seeds, of that attack alone."""
    images = torch.rand(8, 1, 8, 8)

    def target(epsilon: float | None) -> Target:
        record = {} if epsilon is None else {"dp_epsilon": epsilon}
        stored = Stored(Path(f"{epsilon}.ckpt"), {}, record, {})
        spec = SimpleNamespace(dataset="faces", network="softmax_regression")
        made: Any = Target._make((None, spec, stored, None, images, torch.arange(8) // 2))
        return made  # type: ignore[no-any-return]

    tried = []

    def invert(target: Any, attack: Any, people: Any) -> Inversion:
        tried.append((target.stored.path.stem, attack.smoothing))
        none = torch.zeros(len(people))
        return Inversion(torch.rand(len(people), 1, 8, 8), none, none, none.long())

    monkeypatch.setattr(figures_faces, "invert", invert)
    epsilons = (8.0, None, 1.0, 50.0)
    rows = [
        {"Model": f"{e}_{seed}", "Attack": name, "Top1": str(share + seed), "Top1MeanFace": "2.5"}
        for e in epsilons
        for name, share in (("paper", e or 90), ("smoothed", 15), ("documented", 99))
        for seed in (0, 1)
    ]
    figure = figures_faces.people(
        [(target(e), [f"{e}_0", f"{e}_1"]) for e in epsilons], ATTACKS, rows
    )
    assert tried == [(e, blur) for e in ("None", "50.0", "1.0") for blur in (0.0, 2.0)]
    beside = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert beside[1::2] == [
        "recognised,\nof 4 people", *("90.5 %", "15.5 %") , *("50.5 %", "15.5 %"), *("1.5 %", "15.5 %"), "2.5 %"
    ]  # fmt: skip
    assert beside[2:5:2] == [
        f"no DP-SGD\nMI-FACE, {how}" for how in ("as published", "steps blurred")
    ]
    assert beside[6] == "DP-SGD, ε 50\nMI-FACE, as published"
    plt.close(figure)
