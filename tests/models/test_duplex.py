"""The duplex model: what it reads, what it says, and how its embeddings can begin."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2s.models.duplex import AudioEmbedding, DuplexModel
from s2s.streams import Stream, StreamLayout, build_grid, model_inputs
from tests.tiny import SMALL_SPEC, TEXT_VOCAB_SIZE, random_tracks, tiny_layout, tiny_model, tiny_model_config

HEAR = Stream("user", 11, (0, 0, 0), "hear")


def test_shapes_of_the_heads() -> None:
    layout = tiny_layout(SMALL_SPEC)
    model = tiny_model(layout)
    grid, _ = build_grid(layout, random_tracks(layout, 2, 6))
    hidden = model(model_inputs(layout, grid))
    assert hidden.shape == (2, 6, 24)
    logits = model.text_logits(hidden)
    assert {name: list(x.shape) for name, x in logits.items()} == {
        "user_text": [2, 6, TEXT_VOCAB_SIZE + 2],
        "agent_text": [2, 6, TEXT_VOCAB_SIZE + 2],
    }
    assert [s.name for s in model.text_streams] == ["user_text", "agent_text"]
    assert model.depth is not None and model.depth.num_codebooks == SMALL_SPEC.num_codebooks


def test_every_row_of_the_grid_is_read() -> None:
    layout = tiny_layout(SMALL_SPEC)
    model = tiny_model(layout)
    grid, _ = build_grid(layout, random_tracks(layout, 1, 4))
    with torch.no_grad():
        before = model(grid)
        for row in range(layout.num_rows):
            other = grid.clone()
            other[0, row, 2] = (other[0, row, 2] + 1) % 11
            changed = (model(other) != before).any(dim=-1)[0].tolist()
            assert changed == [False, False, True, True], f"grid row {row}"


def test_start_and_pad_are_entries_of_every_table() -> None:
    layout = tiny_layout(SMALL_SPEC)
    model = tiny_model(layout)
    ids = [torch.tensor([s.start_id, s.pad_id]) for s in layout.streams for _ in s.delays]
    start_then_pad = model(torch.stack(ids)[None])
    assert start_then_pad.isfinite().all()
    assert not torch.equal(start_then_pad[:, 0], start_then_pad[:, 1])


def test_layouts_without_spoken_audio_transcribe() -> None:
    layout = StreamLayout((HEAR, Stream("user_text", 19, (0,), "speak")))
    model = tiny_model(layout)
    assert model.depth is None and model.audio_stream is None
    hidden = model(torch.zeros(1, 4, 3, dtype=torch.long))
    assert model.text_logits(hidden)["user_text"].shape == (1, 3, 21)


def test_heard_text_has_no_head() -> None:
    layout = StreamLayout((Stream("words", 19, (0,), "hear"), Stream("agent", 11, (0, 1), "speak")))
    model = tiny_model(layout)
    assert model.text_streams == () and model.text_logits(torch.zeros(1, 24)) == {}


def test_two_spoken_audio_streams_are_refused() -> None:
    layout = StreamLayout((HEAR, Stream("a", 11, (0, 0), "speak"), Stream("b", 11, (0, 0), "speak")))
    with pytest.raises(ValueError, match=r"at most one audio stream can be spoken, got \['a', 'b'\]"):
        DuplexModel(tiny_model_config(layout))


@pytest.mark.parametrize("shape", [(1, 7, 3), (1, 9, 3), (8, 3)])
def test_grids_of_another_layout_are_refused(shape: tuple[int, ...]) -> None:
    model = tiny_model(tiny_layout(SMALL_SPEC))
    with pytest.raises(ValueError, match=r"grid has the shape .*, expected \[B, 8, S\]"):
        model(torch.zeros(shape, dtype=torch.long))


def test_embeddings_begin_as_the_codec_sums_its_vectors() -> None:
    """Frames whose vectors lie close together are embedded close together: the map is linear in the codec's sum."""
    codebooks = torch.randn(3, 11, 6, dtype=torch.float64)
    embedding = AudioEmbedding(HEAR, 6, 24).double()
    embedding.start_from(codebooks)
    ids = torch.randint(11, (1, 3, 40))
    with torch.no_grad():
        embedded = embedding(ids)[0]
    centred = codebooks - codebooks.mean(dim=1, keepdim=True)
    latents = sum(centred[k][ids[0, k]] for k in range(3))
    assert isinstance(latents, torch.Tensor)
    solution = torch.linalg.lstsq(latents, embedded).solution
    torch.testing.assert_close(latents @ solution, embedded)
    assert torch.linalg.matrix_rank(solution) == 6
    assert not embedding(torch.full((1, 3, 1), HEAR.start_id)).any()


def test_all_audio_streams_begin_with_the_codebooks() -> None:
    model = tiny_model(tiny_layout(SMALL_SPEC))
    codebooks = torch.randn(3, 11, 6)
    model.start_from_codebooks(codebooks)
    expected = (codebooks - codebooks.mean(dim=1, keepdim=True)) / codebooks[0].std()
    for name in ("user", "agent"):
        embedding = model.embeddings[name]
        assert isinstance(embedding, AudioEmbedding)
        torch.testing.assert_close(embedding.codes.weight.view(3, 13, 6)[:, :11], expected)


def test_a_stream_that_is_not_read_changes_nothing_that_is_said() -> None:
    layout = tiny_layout(SMALL_SPEC)
    config = tiny_model(layout).config
    row, stream = layout.rows("user_text").start, layout.stream("user_text")
    grid, _ = build_grid(layout, random_tracks(layout, 2, 9))
    grid[:, row] = 3
    other = grid.clone()
    other[:, row] = 4
    reads = tiny_model(layout)
    model = DuplexModel(replace(config, unread=("user_text",))).eval()
    model.load_state_dict(model.adapted(reads.state_dict()))
    assert torch.equal(model(grid), model(other))
    assert not torch.equal(reads(grid), reads(other))
    other[:, row] = stream.pad_id
    assert torch.equal(model(grid), reads(other))


def test_with_a_talker_the_backbone_need_not_hear_its_own_voice() -> None:
    layout = tiny_layout(SMALL_SPEC)
    hears = tiny_model(layout, talker=True)
    model = DuplexModel(replace(hears.config, unread=("agent",))).eval()
    model.load_state_dict(model.adapted(hears.state_dict()))
    grid, _ = build_grid(layout, random_tracks(layout, 2, 9))
    other, rows, stream = grid.clone(), layout.rows("agent"), layout.stream("agent")
    other[:, rows] = (other[:, rows] + 1) % stream.vocab_size
    assert torch.equal(model(grid), model(other))
    assert not torch.equal(hears(grid), hears(other))
    other[:, rows] = stream.pad_id
    assert torch.equal(model(grid), hears(other))
    grid[:, rows, 0] = other[:, rows, 0] = stream.start_id
    assert torch.equal(model(grid), hears(other)), "START is still seen"


def test_only_what_is_said_can_be_unread() -> None:
    config = tiny_model(tiny_layout(SMALL_SPEC)).config
    with pytest.raises(ValueError, match=r"allowed are .'user_text', 'agent_text', 'agent'"):
        replace(config, unread=("user",))
    with pytest.raises(ValueError, match=r"without a talker allowed are .'user_text', 'agent_text'"):
        replace(config, unread=("agent",))


def test_what_has_no_times_is_not_read_back() -> None:
    config = tiny_model(tiny_layout(SMALL_SPEC)).config
    with pytest.raises(ValueError, match=r"untimed is \['user_text'\], allowed are the texts that are unread"):
        replace(config, untimed=("user_text",))


@pytest.mark.parametrize(("spelling", "wording"), [(1, 1), (2, 2)])
def test_letters_and_tokens_are_spelled_behind_layers_of_their_own(spelling: int, wording: int) -> None:
    config = tiny_model(tiny_layout(SMALL_SPEC)).config
    with pytest.raises(ValueError, match=f"are both {spelling}, allowed is one each"):
        replace(config, spelling_layer=spelling, wording_layer=wording)
    with pytest.raises(ValueError, match="wording_layer is 3, allowed is 0 to 2"):
        replace(config, wording_layer=3)


def test_the_layers_above_read_the_tokens_that_are_heard() -> None:
    layout = tiny_layout(SMALL_SPEC)
    model = DuplexModel(replace(tiny_model(layout).config, wording_layer=1)).eval()
    grid, _ = build_grid(layout, random_tracks(layout, 2, 9))
    before = model(grid)
    assert model.wording is not None and model.wording.head.out_features == layout.stream("user_text").table_size
    with torch.no_grad():
        model.wording.back.weight.normal_()
    assert not torch.equal(model(grid), before)
