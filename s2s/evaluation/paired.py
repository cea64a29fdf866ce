"""Two models on the very same calls: which replies the one has right and the other has not.

Reports beside each other do not tell two good models apart: most of what either gets wrong is hard for both. The
replies that only one of them has right do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from s2s.evaluation.judged_call import OPENING, SILENCE
from s2s.evaluation.word_errors import normalise

# What of a reply is compared: heard rightly in its turn, and written to the word.
MEASURES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "replies right": lambda reply: bool(reply["success"]),
    "texts right": lambda reply: normalise(reply["own"] or "") == normalise(reply["expected"]),
}

# What of a reply tells that it is the same one, and what the measures read.
REPLY_KEYS = ("intent", "digits", "success", "own", "expected")


def compare(ones: Sequence[Path], others: Sequence[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Folders of evaluations of one model and of the other, seed by seed -> condition -> measure -> what was found.

    Conditions that only some of them tried are left out. Raises ValueError for folders without calls, and for calls
    that are not the same: another seed, other clips.
    """
    if len(ones) != len(others) or not ones:
        raise ValueError(f"{len(ones)} folders of one model and {len(others)} of the other: as many of each are needed")
    names = set.intersection(*(_conditions(folder) for folder in (*ones, *others)))
    if not names:
        raise ValueError("the folders have no condition in common")
    found = {}
    for name in sorted(names, key=lambda name: (name != "clean", name)):
        calls = [pair for one, other in zip(ones, others, strict=True) for pair in _same_calls(one, other, name)]
        found[name] = {measure: _paired(calls, is_right) for measure, is_right in MEASURES.items()}
    return found


def mcnemar(only_one: int, only_other: int) -> float:
    """How likely a split at least this uneven is where neither is better: exact and two-sided.

    It takes replies for independent, which those of one call or to one clip are not; the interval by calls is wider.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    n, least = only_one + only_other, min(only_one, only_other)
    return min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n)


def _paired(calls: Sequence[tuple[list[Any], list[Any]]], is_right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Counts, the difference of the shares and its 95 % bootstrap interval: whole calls are drawn, not replies."""
    per_call = []
    for one, other in calls:
        rights = [(is_right(a), is_right(b)) for a, b in zip(one, other, strict=True)]
        per_call.append((len(rights), *(sum(r == kind for r in rights) for kind in ((1, 1), (1, 0), (0, 1)))))
    table = np.array(per_call)
    n, both, only_one, only_other = (int(x) for x in table.sum(axis=0))
    if not n:
        return {"n": 0}
    drawn = table[np.random.default_rng(0).integers(0, len(table), (2000, len(table)))].sum(axis=1)
    drawn = drawn[drawn[:, 0] > 0]
    low, high = np.quantile((drawn[:, 3] - drawn[:, 2]) / drawn[:, 0], [0.025, 0.975])
    return {
        "n": n, "one": both + only_one, "other": both + only_other, "only_one": only_one, "only_other": only_other,
        "difference": (only_other - only_one) / n, "low": float(low), "high": float(high),
        "p": mcnemar(only_one, only_other),
    }  # fmt: skip


def _conditions(folder: Path) -> set[str]:
    names = {path.stem for path in (folder / "calls").glob("*.jsonl")}
    if not names:
        raise ValueError(f"{folder}: no calls/*.jsonl, so not the folder of an evaluation")
    return names


def _same_calls(one: Path, other: Path, condition: str) -> Iterator[tuple[list[Any], list[Any]]]:
    """The replies of each call to either model."""
    calls, same = (_read_calls(folder / "calls" / f"{condition}.jsonl") for folder in (one, other))
    for name in calls | same:
        # What is expected of "say that again" is what the model said before, so texts may differ.
        told, asked = (
            (c.get("caller_text"), [(reply["intent"], reply["digits"]) for reply in c.get("replies", ())])
            for c in (calls.get(name, {}), same.get(name, {}))
        )
        if told != asked:
            raise ValueError(
                f"{condition}, {name}: not the same call in {one} and {other} (another seed, other clips?)"
            )
        yield _turns(calls[name]), _turns(same[name])


def _read_calls(path: Path) -> dict[str, dict[str, Any]]:
    """What is compared of the calls of one condition, by name; ValueError where some of it is missing."""
    try:
        return {
            call["name"]: {
                "caller_text": call["caller_text"],
                "replies": [{key: reply[key] for key in REPLY_KEYS} for reply in call["replies"]],
            }
            for call in map(json.loads, path.read_text("utf-8").splitlines())
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the calls of an evaluation ({error!r})") from error


def _turns(call: dict[str, Any]) -> list[dict[str, Any]]:
    """The replies to what the caller said, as a report counts them."""
    return [reply for reply in call["replies"] if reply["intent"] not in (OPENING, SILENCE)]
