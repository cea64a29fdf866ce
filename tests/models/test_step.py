"""The step is the model that was trained: live ticking and teacher forcing agree. The contract tests its state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from s2s.models.duplex import DuplexModel
from s2s.models.step import DuplexState, DuplexStep, EchoStep, Step, silence_codes
from s2s.nn.sampling import Controls
from s2s.streams import Stream, StreamLayout, build_grid, model_inputs
from tests.tiny import (
    SMALL_SPEC,
    same_controls,
    stirred,
    tiny_codec,
    tiny_encodec,
    tiny_layout,
    tiny_model,
    tiny_step,
)

SIZE = SMALL_SPEC.frame_size
STEPS, ROWS = 17, 2


class Recorder:
    """Runs a step's model tick by tick on given codes of the caller and keeps all it did."""

    def __init__(self, step: DuplexStep, heard: Tensor, controls: Controls):
        self.inputs: list[Tensor] = []
        self.said: dict[str, list[Tensor]] = {s.name: [] for s in step.model.layout.side("speak")}
        self.frames: dict[str, list[Tensor]] = {name: [] for name in self.said}
        hidden: list[Tensor] = []
        depth: list[Tensor] = []
        hooks = [
            step.model.register_forward_hook(lambda module, inputs, output: hidden.append(output)),
            step.depth.heads.register_forward_hook(lambda module, inputs, output: depth.append(output)),
        ]
        state = step.init_state(len(heard))
        with torch.no_grad():
            for tick in range(heard.shape[-1]):
                self.inputs.append(step.ring.read(state.ring, {"user": heard[..., tick]}))
                said = step.predict(self.inputs[-1], state, controls)
                for name, ids in step.ring.write(state.ring, said).items():
                    self.said[name].append(said[name])
                    self.frames[name].append(ids)
        for hook in hooks:
            hook.remove()
        self.hidden = torch.cat(hidden, dim=1)
        self.depth_logits = torch.stack(depth, dim=1).unflatten(1, (heard.shape[-1], -1))  # [B, S, K, V]


def tracks_of(layout: StreamLayout, heard: Tensor, said: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tracks [B, rows, T = S + 1] of a conversation, out of its columns [B, rows, S]; what was never said is 0."""
    tracks = {}
    for stream in layout.streams:
        if stream.side == "hear":
            tracks[stream.name] = torch.nn.functional.pad(heard, (0, 1))
            continue
        track = torch.zeros(ROWS, stream.num_rows, STEPS + 1, dtype=torch.long)
        for row, delay in enumerate(stream.delays):
            for frame in range(STEPS + 1):
                column = frame - 1 + delay
                if 0 <= column < STEPS:
                    track[:, row, frame] = said[stream.name][:, row, column]
        tracks[stream.name] = track
    return tracks


def delayed(layout: StreamLayout, text_delay: int) -> StreamLayout:
    return StreamLayout(
        tuple(replace(s, delays=(text_delay,)) if s.name == "agent_text" else s for s in layout.streams)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("per_step_weights", [False, True])
@pytest.mark.parametrize(("acoustic_delay", "text_delay"), [(0, 0), (1, 0), (2, 0), (3, 2)])
def test_live_ticking_equals_teacher_forcing(
    acoustic_delay: int, text_delay: int, per_step_weights: bool, temperature: float
) -> None:
    layout = delayed(tiny_layout(SMALL_SPEC, acoustic_delay), text_delay)
    model = tiny_model(layout, window=5, per_step_weights=per_step_weights)
    step = DuplexStep(tiny_codec(SMALL_SPEC), model)
    heard = torch.randint(SMALL_SPEC.codebook_size, (ROWS, SMALL_SPEC.num_codebooks, STEPS))
    live = Recorder(step, heard, Controls.uniform(ROWS, temperature, top_k=6))
    said = {name: torch.stack(columns, dim=-1) for name, columns in live.said.items()}

    grid, mask = build_grid(layout, tracks_of(layout, heard, said))
    inputs = model_inputs(layout, grid)[..., :STEPS]
    assert torch.equal(inputs, torch.stack(live.inputs, dim=-1))
    for name, columns in said.items():
        assert torch.equal(grid[:, layout.rows(name), :STEPS], columns)
    with torch.no_grad():
        hidden = model(inputs)
        codes = said["agent"].transpose(1, 2).flatten(0, 1)
        depth_logits = step.depth(hidden.flatten(0, 1), codes).unflatten(0, (ROWS, STEPS))
    torch.testing.assert_close(live.depth_logits, depth_logits, rtol=0, atol=1e-5)
    live_text, text = model.text_logits(live.hidden), model.text_logits(hidden)
    for name in text:
        torch.testing.assert_close(live_text[name], text[name], rtol=0, atol=1e-5)
    assert said["agent"].unique().numel() > 3, "the test says nothing if the model says one thing"
    if temperature:
        return
    counts = mask[..., :STEPS]
    for name, logits in {**{n: x[:, :, None] for n, x in text.items()}, "agent": depth_logits}.items():
        rows = layout.rows(name)
        chosen = logits.argmax(dim=-1).transpose(1, 2)
        assert torch.equal(chosen[counts[:, rows]], said[name][counts[:, rows]])


@pytest.mark.parametrize("acoustic_delay", [0, 1, 2])
def test_the_audio_said_is_the_frames_decoded(acoustic_delay: int) -> None:
    """Wav in, wav out: the same as encoding all, ticking, and decoding all."""
    step = tiny_step(SMALL_SPEC, acoustic_delay)
    wav = torch.randn(ROWS, 1, STEPS * SIZE)
    state, controls = step.init_state(ROWS), same_controls(ROWS, temperature=0.8)
    outputs = [step(part, state, controls) for part in wav.split(SIZE, dim=-1)]
    with torch.no_grad():
        recorded = Recorder(step, step.codec.encode(wav), controls)
        frames = torch.stack(recorded.frames["agent"], dim=-1)
        silence = silence_codes(step.codec)[:, None].expand_as(frames)
        before = frames == step.model.layout.stream("agent").start_id
        assert before.any() == (acoustic_delay > 0)
        expected = step.codec.decode(torch.where(before, silence, frames))
    torch.testing.assert_close(torch.cat([out.wav for out in outputs], dim=-1), expected, rtol=0, atol=1e-5)
    for name in ("user_text", "agent_text"):
        text = torch.stack([out.text[name] for out in outputs], dim=-1)
        assert torch.equal(text, torch.stack(recorded.said[name], dim=-1)[:, 0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_untimed_text_adds_a_token_once_however_long_it_is_the_likeliest(temperature: float) -> None:
    layout, spec = tiny_layout(SMALL_SPEC), SMALL_SPEC
    config = replace(tiny_model(layout).config, unread=("user_text",), untimed=("user_text",))
    step = DuplexStep(tiny_codec(spec), stirred(DuplexModel(config)))
    stream = layout.stream("user_text")
    state, controls = step.init_state(ROWS), Controls.uniform(ROWS, temperature, top_k=6)
    likeliest: list[Tensor] = []
    head = step.model.text_heads["user_text"]
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():  # three tokens and PAD, so that each often follows itself
        head.weight[3 : stream.pad_id] = 0
    hook = head.register_forward_hook(lambda module, inputs, output: likeliest.append(output.argmax(dim=-1)))
    added = [step(wav, state, controls).text["user_text"] for wav in torch.randn(40, ROWS, 1, SIZE)]
    hook.remove()
    before = [torch.full((ROWS,), stream.start_id), *likeliest]
    repeated = [ids == last for ids, last in zip(likeliest, before, strict=False)]
    expected = [torch.where(r, stream.pad_id, ids) for ids, r in zip(likeliest, repeated, strict=True)]
    assert torch.equal(torch.stack(added), torch.stack(expected))
    content = torch.stack(likeliest) < stream.vocab_size
    assert (torch.stack(repeated) & content).any() and (torch.stack(added) < stream.vocab_size).any()


def run(step: DuplexStep, wav: Tensor, state: DuplexState, controls: Controls) -> Tensor:
    return torch.cat([step(part, state, controls).wav for part in wav.split(SIZE, dim=-1)], dim=-1)


def test_the_seed_decides() -> None:
    step, wav = tiny_step(SMALL_SPEC), torch.randn(2, 1, 8 * SIZE)
    outputs: dict[int, Tensor] = {}
    for seed in (1, 2, 1):
        audio = run(step, wav, step.init_state(2), same_controls(2, 1.0, seed=seed))
        assert torch.equal(outputs.setdefault(seed, audio), audio)
    assert not torch.equal(outputs[1], outputs[2])


def test_controls_are_per_row() -> None:
    step, wav = tiny_step(SMALL_SPEC), torch.randn(1, 1, 8 * SIZE).expand(3, -1, -1)
    mixed = Controls(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 0, 4]), torch.tensor([1, 2, 3]))
    together = run(step, wav, step.init_state(3), mixed)
    for row in range(3):
        only = Controls(*(x[row : row + 1] for x in (mixed.temperature, mixed.top_k, mixed.seed)))
        alone = run(step, wav[:1], step.init_state(1), only)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
    assert not torch.equal(together[0], together[1]) and not torch.equal(together[1], together[2])


def test_silence_is_what_the_codec_settles_on() -> None:
    codec = tiny_codec(SMALL_SPEC)
    silence = silence_codes(codec)
    assert torch.equal(codec.encode(torch.zeros(1, 1, 9 * SIZE))[0, :, -1], silence)
    for dtype in (torch.float32, torch.float64):
        assert silence_codes(tiny_encodec().to(dtype)).shape == (3,)


def test_the_echo_says_what_it_hears() -> None:
    step = EchoStep(SIZE, 800)
    state, wav = step.init_state(2), torch.randn(2, 1, SIZE)
    out = step(wav, state, same_controls(2))
    assert torch.equal(out.wav, wav) and out.wav.data_ptr() != wav.data_ptr() and out.text == {}
    assert state.position.tolist() == [1, 1]
    assert (step.step_size, step.sample_rate) == (SIZE, 800)


@pytest.mark.parametrize("shape", [(1, 1, 2 * SIZE), (1, 1, SIZE - 1), (1, 2, SIZE), (1, SIZE)])
def test_audio_that_is_no_step_is_refused(shape: tuple[int, ...]) -> None:
    steps: list[Step] = [tiny_step(SMALL_SPEC), EchoStep(SIZE, 800)]
    for step in steps:
        state = step.init_state(1)
        with pytest.raises(ValueError, match=rf"wav has the shape .*, a step takes \[B, 1, {SIZE}\]"):
            step(torch.zeros(shape), state, same_controls(1))


def test_a_model_that_says_no_audio_has_no_step() -> None:
    layout = StreamLayout((Stream("user", 11, (0, 0, 0), "hear"), Stream("user_text", 19, (0,), "speak")))
    with pytest.raises(ValueError, match="the model has no audio stream to speak"):
        DuplexStep(tiny_codec(SMALL_SPEC), tiny_model(layout))


def test_another_codec_fits_the_step() -> None:
    codec = tiny_encodec()
    step = DuplexStep(codec, tiny_model(tiny_layout(codec.spec, acoustic_delay=1)))
    assert (step.step_size, step.sample_rate) == (codec.spec.frame_size, codec.spec.sample_rate)
    state = step.init_state(2)
    for part in torch.randn(2, 1, 5 * step.step_size).split(step.step_size, dim=-1):
        out = step(part, state, same_controls(2, 1.0))
        assert out.wav.shape == part.shape and out.wav.isfinite().all()
