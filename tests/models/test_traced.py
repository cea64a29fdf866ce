"""The traced step: the same result as the step it was made from; 8-bit products: nearly the same."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from s2s.codec.base import Codec, CodecSpec
from s2s.models.step import DuplexStep
from s2s.models.traced import TracedStep, live_step
from s2s.streaming import leaves
from s2s.streams import StreamLayout
from tests.tiny import SMALL_SPEC, same_controls, tiny_codec, tiny_layout, tiny_model, tiny_step


@cache
def steps(int8: bool, ahead: bool = False) -> tuple[DuplexStep, TracedStep]:
    step = tiny_step(SMALL_SPEC, acoustic_delay=1, ahead=ahead)
    return live_step(step, int8) if int8 else step, TracedStep(step, int8)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_graph_gives_what_its_step_gives(rows: int, temperature: float, int8: bool, ahead: bool) -> None:
    step, traced = steps(int8, ahead)
    expected_state, state = step.init_state(rows), traced.init_state(rows)
    addresses = [leaf.data_ptr() for leaf in leaves(state)]
    controls = same_controls(rows, temperature)
    for _ in range(9):  # beyond the window of the attention
        wav = torch.randn(rows, 1, SMALL_SPEC.frame_size)
        expected, out = step(wav, expected_state, controls), traced(wav, state, controls)
        assert torch.equal(expected.wav, out.wav)
        assert list(expected.text) == list(out.text)
        assert all(torch.equal(ids, out.text[name]) for name, ids in expected.text.items())
    assert all(torch.equal(a, b) for a, b in zip(leaves(expected_state), leaves(state), strict=True))
    assert addresses == [leaf.data_ptr() for leaf in leaves(state)]


@pytest.mark.parametrize("int8", [False, True])
def test_a_model_of_sound_alone_has_a_step_too(int8: bool) -> None:
    sound = StreamLayout(tuple(stream for stream in tiny_layout(SMALL_SPEC).streams if stream.num_rows > 1))
    exact = DuplexStep(tiny_codec(SMALL_SPEC), tiny_model(sound))
    step = live_step(exact, int8)
    traced, states = TracedStep(exact, int8), [one.init_state(2) for one in (exact, step)]
    traced_state, controls = traced.init_state(2), same_controls(2)
    for _ in range(7):
        wav = torch.randn(2, 1, SMALL_SPEC.frame_size)
        expected, found = (one(wav, state, controls) for one, state in zip((exact, step), states, strict=True))
        assert found.text == {} and torch.equal(traced(wav, traced_state, controls).wav, found.wav)
        assert found.wav.abs().sum() > 0 and (int8 or torch.allclose(found.wav, expected.wav, atol=1e-5))


def test_controls_are_inputs_of_the_graph() -> None:
    _, traced = steps(False)
    wav = [torch.randn(1, 1, SMALL_SPEC.frame_size) for _ in range(6)]
    said = []
    for seed, temperature, top_k in ((1, 1.5, 0), (2, 1.5, 0), (1, 0.0, 0), (2, 0.0, 0), (1, 1.5, 1), (2, 1.5, 1)):
        state = traced.init_state(1)
        controls = same_controls(1, temperature, top_k, seed)
        said.append(torch.cat([traced(frame, state, controls).wav for frame in wav], dim=-1))
    assert not torch.equal(said[0], said[1])
    assert torch.equal(said[2], said[3])
    assert torch.equal(said[4], said[2]) and torch.equal(said[5], said[2])


def test_8_bit_rows_do_not_see_their_neighbours() -> None:
    _, traced = steps(True)
    first, loud = traced.init_state(2), traced.init_state(2)
    wav = torch.randn(2, 1, SMALL_SPEC.frame_size)
    other = torch.stack([wav[0], 100 * torch.randn(1, SMALL_SPEC.frame_size)])
    for _ in range(3):
        quiet_out = traced(wav, first, same_controls(2, 1.0)).wav[0]
        assert torch.equal(quiet_out, traced(other, loud, same_controls(2, 1.0)).wav[0])


def test_8_bit_hidden_states_are_close() -> None:
    exact = tiny_step(SMALL_SPEC)
    packed = live_step(exact, int8=True)
    inputs = torch.cat([torch.randint(s.vocab_size, (1, s.num_rows)) for s in exact.model.layout.streams], dim=1)
    expected, got = (step.think(inputs, step.init_state(1)) for step in (exact, packed))
    assert 0 < (expected - got).norm() < 0.05 * expected.norm()


def test_a_live_step_keeps_the_exact_silence_and_leaves_its_model_alone() -> None:
    step = tiny_step(SMALL_SPEC)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    packed = live_step(step, int8=True)
    assert torch.equal(packed.silence, step.silence)
    assert all(torch.equal(value, before[name]) for name, value in step.model.state_dict().items())
    assert type(step.model.backbone.layers[0].attention.out) is torch.nn.Linear  # type: ignore[union-attr]


class NoModule:
    """A codec that is not made of torch's modules."""

    spec: CodecSpec = SMALL_SPEC
    synthesis_delay = 0

    def encode(self, wav: torch.Tensor, state: object = None) -> torch.Tensor:
        return torch.zeros(len(wav), SMALL_SPEC.num_codebooks, wav.shape[-1] // SMALL_SPEC.frame_size, dtype=torch.long)


def test_a_codec_without_modules_cannot_be_traced() -> None:
    codec: Codec = NoModule()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="the codec is a NoModule, which cannot be traced"):
        TracedStep(DuplexStep(codec, tiny_model(tiny_layout(SMALL_SPEC))))
