"""Live calls: what a model says in a row that others had before it is what it says to the same recording alone."""

from __future__ import annotations

import numpy as np
import torch

from s2s.evaluation.live_calls import live_calls
from s2s.models.offline import play
from s2s.nn.sampling import Controls
from tests.tiny import tiny_step


class Plays:
    """A caller who plays a recording and hangs up."""

    def __init__(self, wav: np.ndarray, opening: bool, seed: int):
        self.wav, self.opening, self.seed = wav, opening, seed
        self.heard: list[np.ndarray] = []

    def say(self, start: int, heard: np.ndarray) -> np.ndarray | None:
        self.heard.append(heard)
        packet = self.wav[start : start + len(heard)]
        return packet if len(packet) else None


def test_a_call_is_what_its_recording_would_be_alone() -> None:
    step, chance = tiny_step(), np.random.default_rng(0)
    size = step.step_size
    callers = [
        Plays(0.1 * chance.standard_normal(frames * size).astype(np.float32), opening, seed)
        for frames, opening, seed in ((9, True, 5), (4, False, 6), (7, False, 7), (6, True, 8))
    ]
    calls = list(live_calls(step, callers, temperature=1.0, top_k=0, rows=2))
    assert {id(call.caller) for call in calls} == {id(caller) for caller in callers}
    for call in calls:
        caller = call.caller
        controls = Controls.uniform(1, 1.0, 0, caller.seed)
        alone = play(step, torch.from_numpy(caller.wav)[None, None], controls, waits=torch.tensor([not caller.opening]))
        assert np.array_equal(call.heard[: len(caller.wav)], caller.wav)
        assert np.allclose(call.agent[size:], alone.wav[0, 0].numpy(), atol=1e-5)
        assert call.text == {name: ids[0].tolist() for name, ids in alone.text.items()}
        # A caller hears what was said a frame before the one that it speaks now.
        assert np.array_equal(np.concatenate(caller.heard), np.concatenate([np.zeros(size), call.agent])[:-size])


def test_the_seed_and_who_begins_matter() -> None:
    step = tiny_step()
    wav = np.zeros(20 * step.step_size, np.float32)
    plain, other_seed, waits = (
        next(live_calls(step, [Plays(wav, opening, seed)], 1.0, 0, rows=1)).text
        for opening, seed in ((True, 1), (True, 2), (False, 1))
    )
    assert plain != other_seed and plain != waits
