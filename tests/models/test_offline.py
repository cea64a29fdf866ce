"""Recordings through the step: frames, the tail of silence and when it ends."""

import pytest
import torch

from s2s.models.offline import Tail, play
from s2s.models.step import EchoStep, StepOut
from s2s.nn.sampling import Controls
from tests.tiny import same_controls, tiny_step


class Parrot(EchoStep):
    """Says every frame three steps later, as an agent who answers."""

    def __init__(self) -> None:
        super().__init__(step_size=10, sample_rate=100)
        self.past: list[torch.Tensor] = []

    def __call__(self, wav: torch.Tensor, state: object, controls: Controls) -> StepOut:
        self.past.append(wav)
        late = self.past[-4] if len(self.past) > 3 else torch.zeros_like(wav)
        return StepOut(late, {"text": torch.full((len(wav),), len(self.past))})


def test_the_last_frame_is_filled_with_silence() -> None:
    played = play(EchoStep(10, 100), torch.ones(2, 1, 25), Controls.uniform(2))
    assert played.wav.shape == (2, 1, 30)
    assert played.wav[..., :25].eq(1).all() and played.wav[..., 25:].eq(0).all()
    assert len(played.seconds) == 3


def test_the_tail_ends_when_the_agent_has_been_quiet() -> None:
    played = play(Parrot(), torch.ones(1, 1, 50), Controls.uniform(1), Tail(limit=100, quiet=4))
    # Five frames, three more that are still answered, four that are quiet.
    assert played.wav.shape[-1] == 10 * (5 + 3 + 4)
    assert played.text["text"].tolist() == [list(range(1, 13))]


def test_the_tail_has_a_limit() -> None:
    assert len(play(Parrot(), torch.ones(1, 1, 50), Controls.uniform(1), Tail(limit=2, quiet=4)).seconds) == 7
    assert len(play(Parrot(), torch.ones(1, 1, 50), Controls.uniform(1)).seconds) == 5


def test_a_row_that_still_speaks_keeps_the_others_waiting() -> None:
    wav = torch.zeros(2, 1, 50)
    wav[1] = 1
    assert len(play(Parrot(), wav, Controls.uniform(2), Tail(100, 4)).seconds) == 12


def test_playing_is_ticking() -> None:
    step, wav = tiny_step(), torch.randn(1, 1, 4 * 960)
    state = step.init_state(1)
    ticks = [step(frame, state, same_controls(1)) for frame in wav.split(960, dim=-1)]
    played = play(step, wav, same_controls(1))
    assert torch.equal(played.wav, torch.cat([tick.wav for tick in ticks], dim=-1))
    for name, ids in played.text.items():
        assert torch.equal(ids, torch.stack([tick.text[name] for tick in ticks], dim=1))


def test_nothing_to_play_and_impossible_tails_are_errors() -> None:
    with pytest.raises(ValueError, match="there is nothing to play"):
        play(EchoStep(10, 100), torch.zeros(1, 1, 0), Controls.uniform(1))
    with pytest.raises(ValueError, match="a tail of -1 steps"):
        Tail(-1, 1)
    with pytest.raises(ValueError, match="quiet for 0"):
        Tail(1, 0)
