"""Timeline: the picture of a conversation (two waveforms, their words, the gap marked) and its stereo recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2s.audio.io import write_wav
from s2s.data.schema import Word
from s2s.evaluation.audibility import Span, audible_spans
from s2s.evaluation.conversation import caller_turns, voice_to_voice

_INK, _PALE, _GAP = "#22303c", "#8a97a3", "#c8455b"
_COLOURS = {"caller": "#2a7f9e", "agent": "#d98324"}
_INCHES_PER_SECOND, _MIN_WIDTH, _MAX_WIDTH = 1.5, 9.0, 26.0
_WORD_POINTS = 9.0
_WORD_ROWS = 3


def write_stereo(path: Path, caller: np.ndarray, agent: np.ndarray, sample_rate: int) -> Path:
    """Write caller [N] on the left and agent [M] on the right, the shorter one extended by silence; return the path."""
    stereo = np.zeros((2, max(len(caller), len(agent))), dtype=np.float32)
    stereo[0, : len(caller)] = caller
    stereo[1, : len(agent)] = agent
    write_wav(path, stereo, sample_rate)
    return path


def answer_gap(caller: np.ndarray, agent: np.ndarray, sample_rate: int) -> Span | None:
    """Return the silence between the caller's last turn and the agent's answer; None without one or if it is early."""
    turns = caller_turns(caller, sample_rate)
    gap = voice_to_voice(turns[-1], audible_spans(agent, sample_rate)) if turns else None
    if gap is None or gap < 0:
        return None
    return Span(turns[-1].end, turns[-1].end + gap)


def draw_timeline(
    path: Path,
    tracks: tuple[np.ndarray, np.ndarray],
    sample_rate: int,
    words: tuple[Sequence[Word], Sequence[Word]] = ((), ()),
    gap: Span | None = None,
    title: str = "",
) -> Path:
    """Draw (caller [N], agent [M]) one above the other with the words of each under it; return the path.

    `gap` is the stretch to mark with its milliseconds; without one it is found by `answer_gap`. The file's suffix
    chooses the format (png, svg, pdf).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = max(*(len(track) / sample_rate for track in tracks), 1.0)
    width = float(np.clip(seconds * _INCHES_PER_SECOND, _MIN_WIDTH, _MAX_WIDTH))
    figure = Figure(figsize=(width, 4.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 1, sharex=True)
    if gap is None:
        gap = answer_gap(*tracks, sample_rate)
    for axis, name, track, said in zip(axes, _COLOURS, tracks, words, strict=True):
        _draw_wave(axis, name, track, sample_rate, width)
        _draw_words(axis, name, said, seconds / (width - 1.0))
        _style(axis, name, seconds)
    if gap is not None:
        _mark_gap(axes, gap, sample_rate)
    axes[1].tick_params(axis="x", bottom=True, labelbottom=True, colors=_PALE)
    axes[1].set_xlabel("seconds", color=_PALE)
    if title:
        figure.suptitle(title, color=_INK, fontsize=12, x=0.01, ha="left")
    figure.savefig(path)
    return path


def _draw_wave(axis: Any, name: str, track: np.ndarray, sample_rate: int, width: float) -> None:
    """Fill the envelope of a track: its smallest and largest sample in each column of about one pixel."""
    peak = float(np.max(np.abs(track))) if len(track) else 0.0
    column = max(len(track) // int(width * 120), 1)
    usable = len(track) // column * column
    columns = np.asarray(track[:usable]).reshape(-1, column) / (peak or 1.0)
    if len(columns):
        at = (np.arange(len(columns)) + 0.5) * column / sample_rate
        low, high = np.minimum(columns.min(axis=1), -0.008), np.maximum(columns.max(axis=1), 0.008)
        axis.fill_between(at, low, high, color=_COLOURS[name], linewidth=0)


def _draw_words(axis: Any, name: str, words: Sequence[Word], seconds_per_inch: float) -> None:
    """Write each word under its start, on the first of three rows where it does not run into the one before."""
    letter = 0.58 * _WORD_POINTS / 72 * seconds_per_inch
    free_from = [-np.inf] * _WORD_ROWS
    for word in sorted(words, key=lambda item: item.start_s):
        row = next((i for i, free in enumerate(free_from) if word.start_s >= free), int(np.argmin(free_from)))
        start = max(word.start_s, free_from[row])
        height = -1.32 - 0.30 * row
        axis.plot([word.start_s] * 2, [-1.05, height + 0.12], color=_COLOURS[name], linewidth=0.6, alpha=0.45)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
        axis.text(start, height, word.text, fontsize=_WORD_POINTS, color=_INK, ha="left", va="center", bbox=box)
        free_from[row] = start + (len(word.text) + 1) * letter


def _style(axis: Any, name: str, seconds: float) -> None:
    axis.set_xlim(0, seconds)
    axis.set_ylim(-2.15, 1.12)
    axis.set_yticks([])
    axis.tick_params(axis="x", bottom=False, labelbottom=False)
    axis.grid(axis="x", color="#e8ecef", linewidth=0.7)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_ylabel(name, color=_COLOURS[name], fontsize=12, fontweight="bold", y=0.66)


def _mark_gap(axes: Any, gap: Span, sample_rate: int) -> None:
    """Shade the gap over both tracks, and write its length beside it."""
    start, end = gap.start / sample_rate, gap.end / sample_rate
    for axis in axes:
        axis.axvspan(start, end, color=_GAP, alpha=0.16, linewidth=0)
        for edge in (start, end):
            axis.axvline(edge, color=_GAP, linewidth=0.9)
    label = f"{round((gap.end - gap.start) * 1000 / sample_rate)} ms"
    # Right of the gap the caller is silent, so the label hides nothing.
    place = {"xytext": (6, 0), "textcoords": "offset points", "annotation_clip": False, "va": "top"}
    axes[0].annotate(label, (end, 1.0), color=_GAP, fontsize=12, fontweight="bold", **place)
