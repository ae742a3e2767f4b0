"""Texts of a figure stand where they cover neither each other nor what is drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase

Points = Float[np.ndarray, "_ 2"]
Point = Float[np.ndarray, " 2"]
Size = Float[np.ndarray, " 2"]
Each = Float[np.ndarray, " _"]
"""All in pixels but the last."""

STEP = 3.0
"""Pixels between the points that stand for a line."""

GAP = np.array([8.0, 0.0])
"""Pixels between texts at least, beside and above one another."""

DIRECTIONS = np.linspace(0, 2 * np.pi, 16, endpoint=False) + np.pi / 4
"""In which a place beside a point is looked for, above and to the right first."""

COVERED, CROSSED = 10.0, 200.0
"""What it costs to stand on a point of a line, and to lead a line through a text; a pixel further out costs 1."""

ALONG = (1.0, -1.0, *np.linspace(0.8, -0.8, 9))
"""Where on a line across a panel its name is looked for, from end to end, the best first."""


class _Panel:
    """A panel that is laid out: what is drawn there and where texts stand, in pixels."""

    def __init__(self, axis: Axes) -> None:
        self.axis = axis
        self.renderer = _renderer(axis)
        self.unit = self.renderer.points_to_pixels(1)
        self.taken: list[BboxBase] = [Text.get_window_extent(text) for text in axis.texts]

    def extent(self, label: str, **style: Any) -> Size:
        """Width and height of a text."""
        text = Text(0, 0, label, figure=self.axis.get_figure(root=True), **style)
        return np.array(text.get_window_extent(self.renderer).size)

    def cost(self, centres: Points, extent: Size, drawn: Points) -> Each:
        """What is wrong with a text in each place: infinite outside or upon another, more the more it covers."""
        edge = centres - extent / 2, centres + extent / 2
        lowest, highest = self.axis.bbox.get_points()
        cost = np.where((edge[0] < lowest) | (edge[1] > highest), np.inf, 0.0).max(1)
        for box in self.taken:
            cost[((edge[0] < box.max + GAP) & (edge[1] > box.min - GAP)).all(1)] = np.inf
        (left, lower), (right, upper) = (each.T[..., None] for each in edge)
        (x, y), pad = drawn.T, 2 * self.unit
        covered = (x > left - pad) & (x < right + pad) & (y > lower - pad) & (y < upper + pad)
        return cost + COVERED * covered.sum(1)

    def crossed(self, line: Points) -> int:
        """How many points of a line are upon texts."""
        upon = [((line > box.min) & (line < box.max)).all(1) for box in self.taken]
        return int(np.any(upon, axis=0).sum()) if upon else 0

    def write(self, label: str, of: Point, at: Point, extent: Size, **style: Any) -> Text:
        """Write a text in the middle of a place, tied to what it is of however the panel is stretched."""
        self.taken.append(Bbox([at - extent / 2, at + extent / 2]))
        text = self.axis.annotate(
            label, (*self.axis.transAxes.inverted().transform(of),), (*(at - of) / self.unit,),
            xycoords="axes fraction", textcoords="offset points", ha="center", va="center",
            path_effects=[withStroke(linewidth=2, foreground="white")], **style,
        )  # fmt: skip
        text.update_positions(self.renderer)
        return text


def label_points(
    axis: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], size: float = 8
) -> list[Text]:
    """Write a label near each point, with a line to it where it is further away.

    To be called when all else is drawn, as it settles where things stand.

    Args:
        axis: Where to write.
        points: In its coordinates.
        labels: One for each point.
        size: Of the letters, in points.
    """
    settle(axis)
    panel, drawn, written = _Panel(axis), _drawn(axis), []
    steps = np.arange(4, max(axis.bbox.size) / panel.unit, 4) * panel.unit
    towards = np.stack([np.cos(DIRECTIONS), np.sin(DIRECTIONS)], 1)
    for point, label in zip(points, labels):
        extent = panel.extent(label, fontsize=size)
        of = axis.transData.transform(point)
        places = (of + towards * (extent / 2 + steps[:, None, None])).reshape(-1, 2)
        cost = np.repeat(steps, len(towards)) + panel.cost(places, extent, drawn)
        likely = np.argsort(cost)[:100]
        leaders = [_along(np.stack([of, places[i]])) for i in likely]
        cost[likely] += [CROSSED * panel.crossed(line) for line in leaders]
        best = likely[np.argmin(cost[likely])]
        away = (np.abs(places[best] - of) - extent / 2).max() > 6 * panel.unit
        line = dict(arrowstyle="-", linewidth=0.5, shrinkA=1, shrinkB=2) if away else None
        written.append(panel.write(label, of, places[best], extent, fontsize=size, arrowprops=line))
        drawn = np.concatenate([drawn, leaders[list(likely).index(best)]])
    return written


def name_lines(axis: Axes, lines: Sequence[Line2D], size: float = 7) -> list[Text]:
    """Write beside each line across a panel what it is, where that covers least of what else is drawn.

    Args:
        axis: The panel, laid out.
        lines: Horizontal or upright.
        size: Of the letters, in points.
    """
    panel, written = _Panel(axis), []
    for line in lines:
        start, end = line.get_transform().transform(line.get_xydata())[[0, -1]]
        upright = abs(end[0] - start[0]) < abs(end[1] - start[1])
        style = {"fontsize": size, "rotation": 90 if upright else 0}
        label, middle = str(line.get_label()), (start + end) / 2
        extent = panel.extent(label, **style)
        along, across = np.eye(2)[::-1] if upright else np.eye(2)
        reach = np.abs(end - start) / 2 - extent / 2 - 3 * panel.unit
        places = [
            middle + along * reach * share + side * across * (extent / 2 + 2 * panel.unit)
            for share in ALONG
            for side in (1, -1)
        ]
        cost = panel.cost(np.array(places), extent, _drawn(axis, leaving=line))
        best = places[int(np.argmin(cost + np.arange(len(places))))]
        written.append(panel.write(label, middle, best, extent, zorder=5, **style))
    return written


def _drawn(axis: Axes, leaving: Line2D | None = None) -> Points:
    """Points along all lines of a panel, curves, intervals and markers."""
    pieces: list[Points] = [np.empty((0, 2))]
    for line in axis.lines:
        if line is not leaving:
            vertices = line.get_transform().transform(line.get_xydata())
            pieces.append(vertices if line.get_linestyle() == "None" else _along(vertices))
    for collection in axis.collections:
        if isinstance(collection, LineCollection):
            for path in collection.get_paths():
                pieces.append(_along(collection.get_transform().transform(path.vertices)))
    points = np.concatenate(pieces)
    return points[np.isfinite(points).all(1)]


def _along(vertices: Points) -> Points:
    """Points between vertices, a few pixels apart."""
    pieces = [vertices[:1]]
    for start, end in zip(vertices, vertices[1:]):
        length = np.linalg.norm(end - start)
        count = int(length / STEP) + 2 if np.isfinite(length) else 2
        pieces.append(np.linspace(start, end, count)[1:])
    return np.concatenate(pieces)


def thin_ticks(axis: Axes, turn: bool = False) -> None:
    """Leave out the labels below an axis that would touch the one before; or turn all, where each has a name to say."""
    shown = [text for text in axis.get_xticklabels() if text.get_text() and text.get_visible()]
    shown.sort(key=lambda text: text.get_window_extent().x0)
    kept: list[Text] = []
    for text in shown:
        if kept and text.get_window_extent().overlaps(kept[-1].get_window_extent()):
            if turn:
                axis.tick_params(axis="x", rotation=30)
                break
            text.set_visible(False)
        else:
            kept.append(text)


def settle(axis: Axes) -> None:
    """Let the layout put everything where it will be."""
    figure = axis.get_figure(root=True)
    assert figure
    figure.draw_without_rendering()


def _renderer(axis: Axes) -> RendererAgg:
    """What measures texts."""
    figure = axis.get_figure(root=True)
    assert figure and isinstance(figure.canvas, FigureCanvasAgg)
    return figure.canvas.get_renderer()
