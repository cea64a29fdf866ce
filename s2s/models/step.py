"""READ FIRST. The step: one frame of the caller in, one frame of the agent out. Everything else prepares or repeats it.

    wav [B, 1, step_size], state, controls  ->  wav [B, 1, step_size], text ids of this step

`DuplexStep` is the product; `EchoStep` returns what it hears, so that engines and transports can be built and tested
without weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from s2s.codec.base import Codec
from s2s.models.ahead import AheadState
from s2s.models.duplex import DuplexModel
from s2s.models.talker import TalkerState
from s2s.nn.sampling import Controls, sample, uniform_draws
from s2s.nn.transformer import TransformerState
from s2s.streaming import State
from s2s.streams import AGENT_TEXT, RingState, Stream


@dataclass
class StepOut:
    """wav [B, 1, step_size] of the agent; ids [B] per text stream, where ids from its vocab_size on say nothing."""

    wav: Tensor
    text: dict[str, Tensor]


class Step(Protocol):
    """One tick of any number of conversations."""

    step_size: int
    sample_rate: int

    def init_state(self, rows: int) -> State: ...

    def wait(self, state: Any, waits: Tensor) -> None:
        """Before the first step: in rows where `waits` [B] bool the agent lets the caller speak first."""

    def __call__(self, wav: Tensor, state: State, controls: Controls) -> StepOut: ...


@dataclass
class EchoState:
    """How many steps each row has done [B]."""

    position: Tensor


class EchoStep:
    """Says what it hears, one step later at the listener like any other step."""

    def __init__(self, step_size: int = 960, sample_rate: int = 24000):
        self.step_size, self.sample_rate = step_size, sample_rate

    def init_state(self, rows: int) -> EchoState:
        return EchoState(torch.zeros(rows, dtype=torch.long))

    def wait(self, state: EchoState, waits: Tensor) -> None:
        """An echo always waits."""

    def __call__(self, wav: Tensor, state: EchoState, controls: Controls) -> StepOut:
        _check(wav, self.step_size)
        state.position += 1
        return StepOut(wav.clone(), {})


@dataclass
class DuplexState:
    """All that a conversation is, between two steps; `ahead` and `talker` are None for models without."""

    encoder: State
    ring: RingState
    backbone: TransformerState
    decoder: State
    ahead: AheadState | None
    talker: TalkerState | None


class DuplexStep:
    """Encode, read the ring, backbone, text, depth, write the ring, decode."""

    def __init__(self, codec: Codec, model: DuplexModel, silence: Tensor | None = None):
        """Args: silence: codes [K] to decode before the first frame; those of digital silence when None."""
        if model.depth is None or model.audio_stream is None:
            raise ValueError("the model has no audio stream to speak, so it has no duplex step")
        self.codec, self.model, self.depth, self.audio_stream = codec, model, model.depth, model.audio_stream
        self.ring = model.ring()
        self.ahead = model.foresight()
        self.step_size, self.sample_rate = codec.spec.frame_size, codec.spec.sample_rate
        self.silence = silence_codes(codec) if silence is None else silence

    def on(self, codec: Codec, model: DuplexModel) -> DuplexStep:
        """The same step on other modules of the same kind, such as copies for inference only."""
        return type(self)(codec, model, self.silence)

    def init_state(self, rows: int) -> DuplexState:
        device = self.silence.device
        return DuplexState(
            self.codec.init_encoder(rows),
            self.ring.init_state(rows, device),
            self.model.init_state(rows),
            self.codec.init_decoder(rows),
            None if self.ahead is None else self.ahead.init_state(rows, device),
            None if self.model.talker is None else self.model.talker.init_state(rows),
        )

    def wait(self, state: DuplexState, waits: Tensor) -> None:
        """Before the first step: in rows where `waits` [B] bool the agent lets the caller speak first."""
        self.ring.wait(state.ring, waits)

    @torch.inference_mode()
    def __call__(self, wav: Tensor, state: DuplexState, controls: Controls) -> StepOut:
        return self.tick(wav, state, controls)

    def tick(self, wav: Tensor, state: DuplexState, controls: Controls | None) -> StepOut:
        """The step itself, for those who trace or time it; without controls every row is greedy."""
        _check(wav, self.step_size)
        codes = self.codec.encode(wav, state.encoder)[..., 0]  # [B, K]
        said = self.predict(self.ring.read(state.ring, {"user": codes}), state, controls)
        text = {stream.name: self.written(stream, said, state) for stream in self.model.text_streams}
        frames = self.ring.write(state.ring, said)
        return StepOut(self.speak(frames[self.audio_stream.name], state), text)

    def predict(self, inputs: Tensor, state: DuplexState, controls: Controls | None) -> dict[str, Tensor]:
        """Sample this step's column: inputs [B, R] -> ids per speak-stream [B, rows]."""
        hidden = self.think(inputs, state)
        draws = self.draws(state, controls)
        said = self.say_text(hidden, state, controls, draws)
        said[self.audio_stream.name] = self.say_audio(self.voice(inputs, hidden, said, state), state, controls, draws)
        if self.ahead is not None and state.ahead is not None:
            self.ahead.follow(said[AGENT_TEXT][:, 0], hidden, state.ahead)
        return said

    def think(self, inputs: Tensor, state: DuplexState) -> Tensor:
        """The backbone: inputs [B, R] -> hidden [B, D]."""
        hidden: Tensor = self.model(inputs[..., None], state.backbone)[:, 0]
        return hidden

    def draws(self, state: DuplexState, controls: Controls | None) -> Tensor:
        """One number for each token of this step, those of the text streams first [B, texts + K]."""
        count = len(self.model.text_streams) + self.depth.num_codebooks
        if controls is None:
            return torch.zeros(len(state.ring.position), count, device=state.ring.position.device)
        return uniform_draws(controls.seed, state.ring.position, count)

    def text_logits(self, hidden: Tensor, state: DuplexState) -> dict[str, Tensor]:
        """What the text streams are sampled from: hidden [B, D] -> name -> logits [B, V + 2]."""
        logits = self.model.text_logits(hidden)
        if self.ahead is not None and state.ahead is not None:
            talker = self.model.talker
            clock = None if talker is None or state.talker is None else talker.clock(state.talker)
            logits[AGENT_TEXT] = self.ahead.decide(hidden, logits[AGENT_TEXT], state.ahead, clock)
        return logits

    def say_text(
        self, hidden: Tensor, state: DuplexState, controls: Controls | None, draws: Tensor
    ) -> dict[str, Tensor]:
        """Sample the text streams: hidden [B, D], `draws` of this step -> name -> ids [B, 1]."""
        said = {}
        for i, (name, logits) in enumerate(self.text_logits(hidden, state).items()):
            text = self.model.layout.stream(name)
            untimed = name in self.model.config.untimed  # of which only the likeliest token of each step has a meaning
            ids = sample(logits, None if untimed else controls, draws[:, i])[:, None]
            said[name] = torch.where(self.ring.may_speak(state.ring, text), ids, text.start_id)
        return said

    def written(self, stream: Stream, said: dict[str, Tensor], state: DuplexState) -> Tensor:
        """What a text stream adds in this step [B], before `said` is in the ring."""
        ids = said[stream.name]
        if stream.name in self.model.config.untimed:
            ids = torch.where(ids == self.ring.last(state.ring, stream.name), stream.pad_id, ids)
        return ids[:, 0]

    def voice(self, inputs: Tensor, hidden: Tensor, said: dict[str, Tensor], state: DuplexState) -> Tensor:
        """What the sound is made from [B, W]: inputs [B, R] and hidden [B, D] of this step, the text that it `said`."""
        if self.model.talker is None or state.talker is None:
            return hidden
        codes = inputs[:, self.model.layout.rows(self.audio_stream.name)]
        return self.model.voice(hidden, said[AGENT_TEXT][:, 0], codes, state.talker)

    def say_audio(self, voice: Tensor, state: DuplexState, controls: Controls | None, draws: Tensor) -> Tensor:
        """Sample the codes of the spoken audio stream: voice [B, W], `draws` of this step -> codes [B, K]."""
        begun = self.ring.may_speak(state.ring, self.audio_stream)
        forced = torch.where(begun, -1, self.audio_stream.start_id)
        if state.talker is not None:
            forced = torch.where(state.talker.stopped[:, None] & begun, self.silence, forced)
        return self.depth.sample(voice, controls, draws[:, -self.depth.num_codebooks :], forced)

    def speak(self, codes: Tensor, state: DuplexState) -> Tensor:
        """Decode one frame, codes [B, K] -> wav [B, 1, step_size]; a frame before the first one is silence."""
        codes = torch.where(codes < self.codec.spec.codebook_size, codes, self.silence)
        return self.codec.decode(codes[..., None], state.decoder)


@torch.no_grad()
def silence_codes(codec: Codec) -> Tensor:
    """The codes [K] that a codec settles on for digital silence."""
    like = next(codec.parameters()) if isinstance(codec, nn.Module) else torch.zeros(())
    # Two seconds are longer than what any of our encoders looks back on.
    frames = 2 * codec.spec.sample_rate // codec.spec.frame_size
    wav = torch.zeros(1, 1, frames * codec.spec.frame_size, dtype=like.dtype, device=like.device)
    return codec.encode(wav)[0, :, -1]


def _check(wav: Tensor, step_size: int) -> None:
    if wav.dim() != 3 or list(wav.shape[1:]) != [1, step_size]:
        raise ValueError(f"wav has the shape {list(wav.shape)}, a step takes [B, 1, {step_size}]")
