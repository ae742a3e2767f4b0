"""Labels of a figure that do not overlap."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox

CORNERS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Of a point, in the order in which they are tried: right or left, above or below."""

RINGS = 12
"""How far out a place is looked for, in lines of text."""


def label_points(
    axis: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], size: float = 7
) -> list[Text]:
    """Write a label beside each point, further out and with a line to it where others leave no room.

    Neighbours take turns above and below. To be called when all else is drawn, as it settles where things stand.

    Args:
        axis: Where to write.
        points: In its coordinates.
        labels: One for each point.
        size: Of the letters, in points.
    """
    renderer = settle(axis)
    taken: list[Bbox] = []
    written: list[Text] = []
    for turn, (point, label) in enumerate(zip(points, labels)):
        corners = CORNERS if turn % 2 == 0 else (CORNERS[1], CORNERS[0], *CORNERS[2:])
        for ring, (right, up) in ((ring, corner) for ring in range(RINGS) for corner in corners):
            text = axis.annotate(
                label,
                point,
                (right * (4 + 4 * ring), up * (5 + 1.3 * size * ring)),
                textcoords="offset points",
                fontsize=size,
                va="bottom" if up > 0 else "top",
                ha="left" if right > 0 else "right",
                arrowprops=dict(arrowstyle="-", linewidth=0.4) if ring else None,
            )
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line
            inside = Bbox.intersection(box, axis.bbox)
            whole = inside is not None and inside.bounds == box.bounds
            if whole and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            axis.add_artist(text)
        taken.append(box)
        written.append(text)
    return written


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


def settle(axis: Axes) -> RendererAgg:
    """Let the layout put everything where it will be; returns what measures texts there."""
    figure = axis.get_figure(root=True)
    assert figure and isinstance(figure.canvas, FigureCanvasAgg)
    figure.draw_without_rendering()
    return figure.canvas.get_renderer()
