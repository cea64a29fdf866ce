"""What a model would say where a recording says something: codes for a decoder to get used to.

A decoder that has only seen the codes of recordings meets others in a call: those that a model finds likeliest, whose
fine levels are smoother than any recording's. Here each frame is said by the model itself, given all true ones before,
so that its codes stand beside the very sound they are meant to become. In speech synthesis mel frames are made this way
for vocoders, see Shen et al. 2018, "Natural TTS Synthesis by Conditioning WaveNet on Mel Spectrogram Predictions".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from s2s.data.encode import Encoder
from s2s.data.schema import Dialogue
from s2s.models.duplex import DuplexModel
from s2s.models.step import silence_codes
from s2s.streams import AGENT_TEXT, USER_TEXT, build_grid, model_inputs


@torch.inference_mode()
def own_codes(model: DuplexModel, encoder: Encoder, spoken: Sequence[Dialogue]) -> list[np.ndarray]:
    """The codes [K, T] int16 of the agent of each of these dialogues, whose callers say nothing.

    Each is the likeliest frame given the agent's words and its true frames before, as greedy rows say it in a call.
    """
    stream, depth, layout = model.audio_stream, model.depth, model.layout
    if stream is None or depth is None:
        raise ValueError("the model has no audio stream to speak, so it has no codes of its own")
    rows = encoder.encode([encoder.prepare(dialogue, 0) for dialogue in spoken], "")
    longest = max(row.num_frames for row in rows)
    steps = longest + stream.max_delay
    tracks = {
        USER_TEXT: torch.full((len(rows), 1, steps), layout.stream(USER_TEXT).pad_id),
        AGENT_TEXT: torch.full((len(rows), 1, steps), layout.stream(AGENT_TEXT).pad_id),
    }
    silence = silence_codes(encoder.codec)[None, :, None].expand(len(rows), -1, steps)
    tracks["user"], tracks[stream.name] = silence, silence.clone()
    for number, row in enumerate(rows):
        tracks[AGENT_TEXT][number, 0, : row.num_frames] = torch.from_numpy(row.agent_text)
        tracks[stream.name][number, :, : row.num_frames] = torch.from_numpy(row.agent)
    grid, _ = build_grid(layout, tracks)
    hidden = model(model_inputs(layout, grid, torch.ones(len(rows), dtype=torch.bool)))
    flat = hidden.flatten(0, 1)
    said = depth.sample(flat, None, flat.new_zeros(len(flat), depth.num_codebooks))
    said = said.unflatten(0, hidden.shape[:2]).transpose(1, 2)  # [B, K, S]
    # A frame is said in the step before it, each codebook later by its delay; nobody has said the first one.
    aligned = [said[:, k, delay : delay + longest - 1] for k, delay in enumerate(stream.delays)]
    frames = torch.cat([tracks[stream.name][..., :1], torch.stack(aligned, dim=1)], dim=2).numpy().astype(np.int16)
    return [frames[number, :, : row.num_frames] for number, row in enumerate(rows)]
