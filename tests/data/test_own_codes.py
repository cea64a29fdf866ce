"""What a model would say where a recording says something."""

from __future__ import annotations

import numpy as np
import pytest

from s2s.data.encode import EncodeConfig, Encoder
from s2s.data.own_codes import own_codes
from s2s.data.schema import Dialogue, Word
from s2s.models.duplex import DuplexModel
from s2s.streams import Stream, StreamLayout
from s2s.text import ByteTokenizer
from tests.tiny import SPEC, stirred, tiny_codec, tiny_layout, tiny_model, tiny_model_config

RATE, SIZE, FRAMES = SPEC.sample_rate, SPEC.frame_size, 9


def model_of(acoustic_delay: int) -> DuplexModel:
    """A model whose text streams have room for bytes."""
    vocab = ByteTokenizer().vocab_size
    streams = [
        Stream(s.name, vocab, s.delays, s.side) if s.num_rows == 1 else s
        for s in tiny_layout(SPEC, acoustic_delay).streams
    ]
    return stirred(DuplexModel(tiny_model_config(StreamLayout(tuple(streams)), window=20)))


def said(frames: int, *words: Word, seed: int = 0) -> Dialogue:
    wav = np.random.default_rng(seed).normal(size=frames * SIZE).astype(np.float32)
    return Dialogue(f"{seed}", np.zeros_like(wav), 0.1 * wav, RATE, [], list(words))


@pytest.mark.parametrize("acoustic_delay", [0, 1, 2])
def test_a_frame_is_said_on_what_was_true_before_it(acoustic_delay: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoder = model_of(acoustic_delay), Encoder(tiny_codec(SPEC), ByteTokenizer(), EncodeConfig())
    rows = encoder.encode([said(FRAMES), said(FRAMES - 2, seed=1)], "")
    monkeypatch.setattr(Encoder, "encode", lambda self, dialogues, source: rows)
    before = own_codes(model, encoder, [said(FRAMES), said(FRAMES - 2)])
    assert [codes.shape for codes in before] == [(4, FRAMES), (4, FRAMES - 2)]
    assert all(codes.dtype == np.int16 and 0 <= codes.min() <= codes.max() < 32 for codes in before)
    for true, codes in zip(rows, before, strict=True):
        np.testing.assert_array_equal(codes[:, 0], true.agent[:, 0])
    changed = np.zeros((4, FRAMES), bool)
    for code in range(32):
        rows[0].agent[0, 4] = code
        after = own_codes(model, encoder, [said(FRAMES), said(FRAMES - 2)])
        np.testing.assert_array_equal(after[1], before[1])
        changed |= after[0] != before[0]
    # The first codebook is said in the step before its frame, the others `acoustic_delay` steps later.
    for codebooks, first in ((changed[:1], 5), (changed[1:], 5 - acoustic_delay)):
        assert not codebooks[:, :first].any() and codebooks[:, first].any()


def test_what_is_written_is_said() -> None:
    model, encoder = model_of(0), Encoder(tiny_codec(SPEC), ByteTokenizer(), EncodeConfig())
    step_s = SIZE / RATE
    silent, spoken = (
        own_codes(model, encoder, [said(FRAMES, *words)])[0] for words in ((), (Word("word", 5 * step_s, 8 * step_s),))
    )
    changed = (silent != spoken).any(axis=0)
    assert changed.any() and not changed[:5].any()


def test_a_model_without_a_voice_has_no_codes() -> None:
    layout = StreamLayout((Stream("user", 32, (0, 0, 0, 0), "hear"), Stream("agent_text", 19, (0,), "speak")))
    encoder = Encoder(tiny_codec(SPEC), ByteTokenizer(), EncodeConfig())
    with pytest.raises(ValueError, match="no audio stream to speak"):
        own_codes(tiny_model(layout), encoder, [said(3)])
