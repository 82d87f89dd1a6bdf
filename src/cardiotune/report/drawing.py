"""How figures are drawn: inline SVG that reads without colour, and the numbers behind it as CSV
inside the page."""

import csv
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cardiotune.comparators import COMPARATORS, Look

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
UNKNOWN_LOOK = Look("#8a6d00", (0, (1, 3)), "x")
REFERENCE: dict[str, Any] = {"color": "#777", "linewidth": 1, "linestyle": (0, (2, 2))}
WIDTH = 4.6
"""Inches of a figure with a legend: two columns of it fit."""
LONGEST = 34
"""Characters of a name in the smallest figure before its line breaks."""
LONGEST_BESIDE = 28
"""Characters of a name in a legend that may have another beside it."""


@dataclass(frozen=True)
class Drawing:
    """One figure of the report."""

    name: str
    """Unique in the page; also the name of the CSV file."""
    title: str
    label: str
    """What a screen reader says instead of the picture."""
    caption: str
    """What to look for."""
    svg: Markup
    data: str
    """The numbers that are drawn, as CSV."""
    panels: Literal["", "small", "large"] = ""
    """Several pictures of this size side by side, over the whole width."""

    @property
    def href(self) -> str:
        """The CSV as a `data:` URI, so that a click saves it without any request."""
        return "data:text/csv;charset=utf-8," + quote(self.data)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text; numbers with four decimals, undefined ones empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")
    return "" if value is None else value


def svg(
    name: str, size: tuple[float, float], paint: Callable[[Figure], None], margins: dict[str, float] | None = None
) -> Markup:
    """What `paint` draws, as inline SVG: the same bytes every time, and ids that no other figure
    has. Size in inches.

    `margins` (see `Figure.subplots_adjust`) spares the search for a layout, which takes longer than
    the drawing.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change the report
        matplotlib.rcParams.update(STYLE)
        matplotlib.rcParams["svg.hashsalt"] = name
        figure = Figure(figsize=size, layout=None if margins else "constrained")
        paint(figure)
        if margins:
            figure.subplots_adjust(**margins)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return Markup(re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", drawing))


def look(model: str) -> dict[str, Any]:
    """Colour, line style and marker of a model, the same in every figure, as matplotlib wants
    them."""
    drawn = COMPARATORS[model].look if model in COMPARATORS else UNKNOWN_LOOK
    style = {"linewidth": drawn.width, "markersize": 5.5, "color": drawn.color, "linestyle": drawn.dash}
    return {**style, "marker": drawn.marker, **({"zorder": 3} if drawn.above else {})}


def square(figure: Figure, x: str, y: str) -> Axes:
    """Axes from 0 to 1 both ways."""
    axes = figure.add_subplot(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(box_aspect=1, xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    return axes


def legend(figure: Figure, columns: int = 2) -> None:
    """A legend below everything; in one column when two would be cut off."""
    found = [entry for axes in figure.axes for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    figure.legend(
        [handle for handle, _ in found],
        [textwrap.fill(name, LONGEST) for _, name in found],
        loc="outside lower center",
        ncols=1 if any(len(name) > LONGEST_BESIDE for _, name in found) else columns,
        frameon=False,
        handlelength=2.4,
        borderaxespad=0,
        columnspacing=0.8,
        fontsize=8.5,
    )


def height_with_legend(height: float, entries: int) -> float:
    """Inches, with room for a legend of two columns."""
    return height + 0.19 * ((entries + 1) // 2)
