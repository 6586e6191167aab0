"""The look of a chart. Importing this module loads matplotlib."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, MUTED, GRID, ACCENT = "#1f2933", "#5f6c7b", "#e4e7eb", "#2f6fb5"
MAX_LABELS = 20  # names along the horizontal axis; with more, every n-th is shown
LEVEL_CHARACTERS = 90  # names that need more room than this in all are slanted
MARKED_POINTS = 60  # a line with more points has no markers


def draw(points: Sequence[tuple[Any, Any]], *, kind: str, x_label: str, y_label: str, source: str) -> str:
    """Draws (x, y) pairs into `chart.png` in the working directory, 1600 by 900 pixels; returns its path."""
    figure = Figure(figsize=(8, 4.5), dpi=200, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    axes = figure.add_subplot()
    xs, ys = [_position(x, kind) for x, _ in points], [y for _, y in points]
    if kind == "line":
        axes.plot(xs, ys, color=ACCENT, linewidth=2, marker="o" if len(xs) <= MARKED_POINTS else "", markersize=5)
    elif kind == "bar":
        axes.bar(xs, ys, color=ACCENT, width=0.7)
    else:
        axes.scatter(xs, ys, color=ACCENT, s=26, alpha=0.65, linewidths=0)
    _style(axes, kind)
    _label_ticks(axes, xs)
    axes.set_xlabel(x_label, color=MUTED, labelpad=8)
    axes.set_ylabel(y_label, color=MUTED, labelpad=8)
    axes.set_title(f"{y_label} by {x_label}", loc="left", fontsize=13, fontweight="bold", color=INK, pad=14)
    axes.set_title(os.path.basename(source), loc="right", fontsize=9, color=MUTED, pad=14)
    path = os.path.abspath("chart.png")
    figure.savefig(path)
    return path


def _position(x: Any, kind: str) -> Any:
    """A number or a date keeps its place on a scale; for bars, and for anything else, it is a name."""
    if isinstance(x, Decimal):
        x = float(x)
    if kind != "bar" and isinstance(x, int | float | date) and not isinstance(x, bool):
        return x
    return str(x).removesuffix(" 00:00:00")


def _style(axes: Axes, kind: str) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.set_axisbelow(True)
    axes.grid(axis="both" if kind == "scatter" else "y", color=GRID)
    axes.tick_params(colors=MUTED, labelsize=9, length=0, pad=6)
    axes.yaxis.set_major_formatter("{x:,.12g}")


def _label_ticks(axes: Axes, xs: Sequence[Any]) -> None:
    if isinstance(xs[0], date):
        locator = AutoDateLocator(maxticks=10)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    if not isinstance(xs[0], str):
        return
    names = list(dict.fromkeys(xs))
    step = -(-len(names) // MAX_LABELS)
    shown = names[::step]
    axes.set_xticks(range(0, len(names), step), shown)
    if sum(len(name) + 2 for name in shown) > LEVEL_CHARACTERS:
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")
