"""Plots: how many of the measured values lie below each value, and values side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_INK, _PALE = "#22303c", "#8a97a3"
_COLOURS = ("#2a7f9e", "#d98324", "#c8455b", "#5b8c5a", "#7b5ea7")


def draw_shares(
    path: Path, values: Mapping[str, Sequence[float]], unit: str, title: str, limit: float | None = None
) -> Path:
    """Draw for each name the share of its values up to each value; `limit` is the value to keep; return the path."""
    figure, axis = _figure()
    for colour, (name, given) in zip(_COLOURS, values.items(), strict=False):
        if ordered := sorted(given):
            shares = np.arange(1, len(ordered) + 1) / len(ordered)
            axis.step(
                [ordered[0], *ordered], [0, *shares], where="post", color=colour, label=f"{name} (n {len(ordered)})"
            )
    for share in (0.5, 0.95, 0.99):
        axis.axhline(share, color="#e8ecef", linewidth=0.8, zorder=0)
    if limit is not None:
        axis.axvline(limit, color="#c8455b", linewidth=0.9, linestyle="--")
    axis.set_ylim(0, 1.02)
    axis.set_yticks([0, 0.5, 0.95, 0.99], ["0", "50 %", "95 %", "99 %"])
    return _finish(figure, axis, path, unit, title)


def draw_bars(path: Path, values: Mapping[str, float | None], unit: str, title: str) -> Path:
    """Draw a bar for each name that has a value; return the path."""
    figure, axis = _figure()
    known = {name: value for name, value in values.items() if value is not None}
    for row, (name, value) in enumerate(known.items()):
        axis.barh(row, value, color=_COLOURS[row % len(_COLOURS)], height=0.6)
        axis.annotate(f"{value:.4g}", (value, row), xytext=(4, 0), textcoords="offset points", va="center", color=_INK)
        axis.annotate(name, (0, row + 0.42), xytext=(2, 0), textcoords="offset points", va="bottom", color=_INK)
    axis.set_yticks([])
    axis.margins(x=0.15, y=0.15)
    return _finish(figure, axis, path, unit, title, legend=False)


def draw_intervals(path: Path, values: Mapping[str, Mapping[str, Any]], unit: str, title: str) -> Path:
    """Draw for each name its rate in per cent with the bounds of its interval (see `statistics.proportion`)."""
    figure, axis = _figure()
    known = [(name, share) for name, share in values.items() if share["rate"] is not None][::-1]
    for row, (_, share) in enumerate(known):
        axis.plot([100 * share["low"], 100 * share["high"]], [row, row], color=_PALE, linewidth=2)
        axis.plot(100 * share["rate"], row, "o", color=_COLOURS[0], markersize=6)
    axis.set_yticks(range(len(known)), [f"{name} (n {share['n']})" for name, share in known])
    axis.set_xlim(0, 100)
    axis.grid(axis="x", color="#e8ecef", linewidth=0.7)
    axis.set_axisbelow(True)
    return _finish(figure, axis, path, unit, title, legend=False)


def draw_histogram(
    path: Path, values: Sequence[float], unit: str, title: str, bins: Sequence[float], limit: float | None = None
) -> Path:
    """Draw how many values fall between the edges `bins`, those beyond at the edge; `limit` is the value to keep."""
    figure, axis = _figure()
    axis.hist(np.clip(values, bins[0], bins[-1]), bins=list(bins), color=_COLOURS[0])
    if limit is not None:
        axis.axvline(limit, color="#c8455b", linewidth=0.9, linestyle="--")
    return _finish(figure, axis, path, unit, title, legend=False)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _finish(figure: Any, axis: Any, path: Path, unit: str, title: str, legend: bool = True) -> Path:
    axis.set_xlabel(unit, color=_PALE)
    axis.tick_params(colors=_PALE)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if legend and axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, labelcolor=_INK, loc="lower right")
    figure.suptitle(title, color=_INK, fontsize=12, x=0.01, ha="left")
    figure.savefig(path)
    return path
