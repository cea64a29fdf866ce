"""The script is followed to the sample, whatever the frames."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.models.offline import play
from s2s.models.scripted import NO_TOKEN, Script, ScriptedStep
from s2s.nn.sampling import Controls

SIZE, RATE = 40, 1000
ANSWER = 0.1 + torch.arange(130) / 1000
"""A ramp, so that every sample tells its place."""


def listener(script: Script, wav: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What is heard on the caller's clock, on which the sound of step s is heard during frame s + 1."""
    played = play(ScriptedStep(script, SIZE, RATE), wav[None, None], Controls.uniform(1))
    return F.pad(played.wav[0, 0], (SIZE, 0)), {name: ids[0] for name, ids in played.text.items()}


def speech(length: int, *spans: tuple[int, int]) -> Tensor:
    wav = torch.zeros(length)
    for start, stop in spans:
        wav[start:stop] = 0.5
    return wav


def answers(heard: Tensor) -> list[tuple[int, int]]:
    """Where something is heard: (first sample, one past the last)."""
    on = F.pad((heard != 0).long(), (1, 1)).diff()
    return list(zip(on.eq(1).nonzero()[:, 0].tolist(), on.eq(-1).nonzero()[:, 0].tolist(), strict=True))


@pytest.mark.parametrize("end", [97, 119, 120, 121])
@pytest.mark.parametrize("delay", [80, 101, 200])
def test_the_answer_comes_a_set_time_after_the_last_sound(end: int, delay: int) -> None:
    heard, _ = listener(Script(ANSWER, delay_s=delay / RATE), speech(600, (45, end)))
    assert answers(heard) == [(end + delay, end + delay + len(ANSWER))]
    assert torch.equal(heard[end + delay : end + delay + len(ANSWER)], ANSWER)


def test_what_cannot_be_known_yet_comes_as_soon_as_it_is() -> None:
    heard, _ = listener(Script(ANSWER, delay_s=0.0), speech(400, (10, 30)))
    assert answers(heard) == [(40, 170)], "frame 0 is over at 40"


def test_a_pause_shorter_than_the_delay_is_no_end() -> None:
    heard, _ = listener(Script(ANSWER, delay_s=0.15), speech(800, (10, 100), (190, 260)))
    assert answers(heard) == [(260 + 150, 260 + 150 + 130)]


def test_every_turn_gets_an_answer() -> None:
    heard, _ = listener(Script(ANSWER, delay_s=0.1), speech(1000, (10, 90), (500, 577)))
    assert answers(heard) == [(190, 320), (677, 807)]


def test_a_deaf_agent_goes_on_and_answers_nothing_that_was_said_over_it() -> None:
    heard, _ = listener(Script(ANSWER, delay_s=0.1), speech(1000, (10, 90), (210, 260)))
    assert answers(heard) == [(190, 320)]


@pytest.mark.parametrize("yield_after", [0, 80])
def test_it_stops_when_spoken_over_long_enough(yield_after: int) -> None:
    answer = torch.full((600,), 0.3)
    script = Script(answer, delay_s=0.1, yield_after_s=yield_after / RATE)
    heard, _ = listener(script, speech(1400, (10, 90), (290, 330), (500, 700)))
    if yield_after == 0:
        # The sound of frame 7 (280 ... 319) stops what would be heard from 320 on; it is then answered like any other.
        assert answers(heard)[0] == (190, 320)
    else:
        # 40 ms over it are let pass; those from 500 on are longer than 80 by the end of frame 14, at 600.
        assert answers(heard) == [(190, 600), (800, 1400)]


def test_text_comes_with_the_answer_and_is_cut_with_it() -> None:
    texts = {"user_text": [7], "agent_text": [1, 2, 3, 4, 5, 6, 7, 8]}
    _, said = listener(Script(ANSWER, delay_s=0.1, text=texts), speech(600, (10, 90)))
    # It begins at 190 within frame 4, which step 3 says, and is over by 320, the end of frame 7.
    assert said["user_text"].tolist() == [NO_TOKEN] * 3 + [7] + [NO_TOKEN] * 11
    assert said["agent_text"].tolist() == [NO_TOKEN] * 3 + [1, 2, 3, 4] + [NO_TOKEN] * 8


@pytest.mark.parametrize(
    ("fields", "match"),
    [({"answer": ANSWER[None]}, "shape"), ({"answer": ANSWER[:0]}, "shape"), ({"delay_s": -1.0}, "below 0")],
)
def test_senseless_scripts_are_refused(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Script(**{"answer": ANSWER} | fields)  # type: ignore[arg-type]


def test_only_whole_steps_are_heard() -> None:
    step = ScriptedStep(Script(ANSWER), SIZE, RATE)
    with pytest.raises(ValueError, match="a step takes"):
        step(torch.zeros(1, 1, SIZE + 1), step.init_state(1), Controls.uniform(1))
