"""Full-Duplex-Bench v1 on words and spans with known answers."""

import math

import numpy as np
import pytest

from s2s.data.schema import Word
from s2s.evaluation.audibility import Span
from s2s.evaluation.full_duplex import Sample, Task, jensen_shannon, report, score

RATE = 16000


def words(*times: tuple[float, float]) -> list[Word]:
    return [Word("word", start, end) for start, end in times]


def sample(task: Task, *times: tuple[float, float], end_s: float | None = 2.0) -> Sample:
    return Sample("a", task, words(*times), 10.0, end_s)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], 0),
        ([(1.0, 1.3)], 0),
        ([(1.0, 1.2), (1.3, 1.5), (1.6, 1.9)], 0),
        ([(1.0, 2.0)], 1),
        ([(1.0, 1.1), (1.2, 1.3), (1.4, 1.5), (1.6, 1.7)], 1),
    ],
)
def test_takeover_in_a_pause(times: list[tuple[float, float]], expected: int) -> None:
    assert score(sample("pause_handling", *times)).takeover == expected


def test_turn_taking() -> None:
    late = score(sample("turn_taking", (2.3, 2.6), (3.0, 3.5)))
    assert (late.takeover, late.latency_s, late.early) == (1, pytest.approx(0.3), False)
    early = score(sample("turn_taking", (1.7, 2.6), (3.0, 3.5)))
    assert (early.latency_s, early.early) == (0.0, True)
    silent = score(sample("turn_taking"))
    assert (silent.takeover, silent.latency_s) == (0, None)


def test_an_interruption_is_answered_by_what_follows_it() -> None:
    found = score(sample("interruption", (0.1, 0.5), (1.5, 2.1), (2.5, 3.0), (3.2, 4.0)))
    assert (found.takeover, found.latency_s, found.early) == (1, 0.5, False)
    assert score(sample("interruption", (0.1, 0.5), (1.5, 2.1))).takeover == 0


def test_the_end_of_the_turn_is_needed() -> None:
    with pytest.raises(ValueError, match="end of the caller's turn"):
        score(sample("turn_taking", (1, 2), end_s=None))


def backchannels(*spans: tuple[float, float], people: list[float] | None = None) -> Sample:
    heard = [Span(round(start * RATE), round(end * RATE)) for start, end in spans]
    return Sample("b", "backchannel", words((1.1, 1.2), (5.1, 5.3)), 10.0, None, heard, RATE, people)


def test_backchannels_are_short_and_of_few_words() -> None:
    found = score(backchannels((1.0, 1.4), (3.0, 4.5), (5.0, 5.5)))
    assert (found.takeover, found.backchannels, found.per_s) == (0, 2, 0.2)
    assert score(backchannels((1.0, 4.0))).takeover == 1
    many = Sample("b", "backchannel", words((1, 1.1), (1.2, 1.3), (1.4, 1.5)), 10.0, None, [Span(RATE, 2 * RATE - 1)])
    assert score(many).backchannels == 0


def test_timing_beside_peoples() -> None:
    spread = np.zeros(50)
    spread[5:7] = 1  # 1.0 to 1.4 s
    alike = score(backchannels((1.0, 1.4), people=spread.tolist()))
    assert alike.divergence == pytest.approx(0.0, abs=1e-4)
    other = score(backchannels((8.0, 8.4), people=spread.tolist()))
    assert other.divergence == pytest.approx(math.sqrt(math.log(2)), abs=1e-4)


def test_jensen_shannon() -> None:
    p, q = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    middle = (p + q) / 2
    expected = math.sqrt(
        0.5 * (0.5 * math.log(0.5 / middle[0]) + 0.5 * math.log(0.5 / middle[1])) + 0.5 * math.log(1 / 0.75)
    )
    assert jensen_shannon(p, q) == pytest.approx(expected, abs=1e-4)
    assert jensen_shannon(p, 7 * p) == pytest.approx(0.0, abs=1e-6)


def test_a_report_of_all_tasks() -> None:
    scores = [
        score(sample("pause_handling", (1, 3))),
        score(sample("pause_handling")),
        score(sample("turn_taking", (2.5, 4))),
        score(sample("interruption", (2.2, 4))),
        score(backchannels((1.0, 1.4))),
    ]
    result = report(scores)
    assert list(result) == ["pause_handling", "turn_taking", "interruption", "backchannel"]
    assert result["pause_handling"]["takeover_rate"]["rate"] == 0.5
    assert result["turn_taking"]["latency_s"]["p50"] == 0.5
    assert result["interruption"]["latency_s"]["p50"] == pytest.approx(0.2)
    assert (result["backchannel"]["per_s"], result["backchannel"]["divergence"]) == (0.1, None)
    assert report([]) == {}
