"""Word times without an aligner: words placed over the voiced part of a clip by length and by its pauses."""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from s2s.data.schema import Word

FRAME_S = 0.01
PAUSE_S = 0.09
FLOOR_DB = -34.0
REACH = 0.15
FINAL_LENGTHENING = 1.8


def voiced_frames(wav: np.ndarray, sample_rate: int, floor_db: float = FLOOR_DB) -> np.ndarray:
    """Which 10 ms frames of wav [N] are within `-floor_db` of the loudest one: speech. Returns bool [N // hop]."""
    hop = round(sample_rate * FRAME_S)
    frames = wav[: len(wav) // hop * hop].reshape(-1, hop).astype(np.float32)
    level = np.sqrt(np.mean(frames * frames, axis=1)) + 1e-9
    return level > level.max(initial=1e-9) * 10 ** (floor_db / 20)


def word_weights(words: Sequence[str]) -> list[float]:
    """How long each word takes against the others: by its letters and syllables, and longer before punctuation."""
    weights = []
    for word in words:
        letters, syllables = (len(re.findall(part, word.lower())) for part in ("[a-z0-9]", "[aeiouy]+"))
        weights.append((1.0 + 0.6 * letters + syllables) * (FINAL_LENGTHENING if word[-1] in ",.?!;:" else 1.0))
    return weights


def place_words(
    text: str, wav: np.ndarray, sample_rate: int, offset_s: float = 0.0, weights: Sequence[float] | None = None
) -> list[Word]:
    """Words of `text` with times [s] in wav [N]; pauses of the sound are put at the punctuation that fits best.

    `weights` are relative lengths of the words where they are known. `offset_s` is added to every time.
    """
    words = text.split()
    voiced = voiced_frames(wav, sample_rate)
    spoken = np.flatnonzero(voiced)
    if not words or not len(spoken):
        return []
    shares = np.cumsum([0.0, *(weights or word_weights(words))])
    shares /= shares[-1]
    first, last = int(spoken[0]), int(spoken[-1]) + 1
    pauses = _pauses(voiced[first:last])
    silent = sum(length for _, length in pauses)
    knots = _match(words, shares, pauses, last - first - silent)
    # One stretch of speech between two matched pauses holds the words between their boundaries, in proportion.
    edges = np.empty((len(words), 2))
    matched = [(0, first, first), *((b, first + s, first + s + n) for b, s, n in knots), (len(words), last, last)]
    for (left, _, begin), (right, end, _) in itertools.pairwise(matched):
        span = shares[left : right + 1]
        places = begin + (span - span[0]) / (span[-1] - span[0]) * (end - begin)
        edges[left:right, 0], edges[left:right, 1] = places[:-1], places[1:]
    edges = edges * FRAME_S + offset_s
    return [Word(w, round(float(a), 3), round(float(b), 3)) for w, (a, b) in zip(words, edges, strict=True)]


def find_pauses(wav: np.ndarray, sample_rate: int) -> list[tuple[float, float]]:
    """(start_s, end_s) of the silences inside the speech of wav [N]."""
    voiced = voiced_frames(wav, sample_rate)
    spoken = np.flatnonzero(voiced)
    if not len(spoken):
        return []
    first = int(spoken[0])
    found = _pauses(voiced[first : int(spoken[-1]) + 1])
    return [(round((first + a) * FRAME_S, 3), round((first + a + n) * FRAME_S, 3)) for a, n in found]


def _pauses(voiced: np.ndarray) -> list[tuple[int, int]]:
    """(start, length) in frames of the silent runs that are too long to be inside a word."""
    change = np.flatnonzero(np.diff(voiced.astype(np.int8), prepend=1, append=1))
    starts, ends = change[::2], change[1::2]
    return [(int(a), int(b - a)) for a, b in zip(starts, ends, strict=True) if b - a >= PAUSE_S / FRAME_S]


def _match(
    words: Sequence[str], shares: np.ndarray, pauses: list[tuple[int, int]], spoken: int
) -> list[tuple[int, int, int]]:
    """(word boundary, start, length) of the pauses that lie near a punctuation mark, in order."""
    marks = [i + 1 for i, w in enumerate(words[:-1]) if w[-1] in ",.?!;:"]
    knots: list[tuple[int, int, int]] = []
    silent = 0
    for start, length in pauses:
        place = (start - silent) / max(spoken, 1)
        silent += length
        free = [m for m in marks if not knots or m > knots[-1][0]]
        best = min(free, key=lambda m: abs(shares[m] - place), default=None)
        if best is not None and abs(shares[best] - place) < REACH:
            knots.append((best, start, length))
    return knots
