"""The token grid and its clock: what training builds at once is what live ticking builds step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2s.streams import Stream, StreamLayout, TokenRing, build_grid, dialogue_layout, model_inputs
from tests.tiny import random_tracks

LAYOUT = StreamLayout((Stream("in", 4, (0, 1), "hear"), Stream("out", 4, (0,), "speak")))


@st.composite
def layouts(draw: Callable) -> StreamLayout:
    """One to four streams of one to three rows, each row with a delay of its own."""
    streams = []
    for i in range(draw(st.integers(1, 4))):
        delays = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple))
        streams.append(Stream(f"s{i}", draw(st.integers(1, 9)), delays, draw(st.sampled_from(["hear", "speak"]))))
    return StreamLayout(tuple(streams))


examples = given(layout=layouts(), rows=st.integers(1, 2), length=st.integers(1, 12), seed=st.integers(0, 2**31))


def cell(stream: Stream, row: int, column: int, track: Tensor) -> tuple[int, bool]:
    """The token of one place in the grid, and whether it is a frame, straight from the definition of the clock."""
    frame = column - stream.delays[row] + (stream.side == "speak")
    if frame < 0:
        return stream.start_id, False
    if frame >= len(track):
        return stream.pad_id, False
    return int(track[frame]), True


@examples
@settings(max_examples=40)
def test_grid_and_mask_follow_the_definition(layout: StreamLayout, rows: int, length: int, seed: int) -> None:
    tracks = random_tracks(layout, rows, length, seed)
    grid, mask = build_grid(layout, tracks)
    inputs = model_inputs(layout, grid)
    assert grid.shape == mask.shape == inputs.shape == (rows, layout.num_rows, length)
    assert mask.dtype == torch.bool
    for stream in layout.streams:
        speaks = stream.side == "speak"
        for row in range(stream.num_rows):
            place = layout.rows(stream.name).start + row
            for b in range(rows):
                track = tracks[stream.name][b, row]
                expected = [cell(stream, row, column, track) for column in range(length)]
                assert grid[b, place].tolist() == [token for token, _ in expected]
                assert mask[b, place].tolist() == [inside and speaks for _, inside in expected]
                read = [stream.start_id, *grid[b, place, :-1].tolist()] if speaks else grid[b, place].tolist()
                assert inputs[b, place].tolist() == read


@examples
@settings(max_examples=40)
def test_live_ticking_builds_the_grid_of_training(layout: StreamLayout, rows: int, length: int, seed: int) -> None:
    tracks = random_tracks(layout, rows, length, seed)
    grid, _ = build_grid(layout, tracks)
    inputs = model_inputs(layout, grid)
    ring = TokenRing(layout)
    state = ring.init_state(rows)
    for tick in range(length):
        heard = {s.name: tracks[s.name][..., tick] for s in layout.side("hear")}
        assert torch.equal(ring.read(state, heard), inputs[..., tick])
        for stream in layout.side("speak"):
            begun = ring.may_speak(state, stream)
            assert torch.equal(begun, grid[:, layout.rows(stream.name), tick] != stream.start_id)
        frames = ring.write(state, {s.name: grid[:, layout.rows(s.name), tick] for s in layout.side("speak")})
        assert frames.keys() == {s.name for s in layout.side("speak")}
        for stream in layout.side("speak"):
            said = tick + 1 - stream.max_delay
            for row, delay in enumerate(stream.delays):
                column = said - 1 + delay
                if said < 0 or column < 0:
                    track = torch.full((rows,), stream.start_id)
                elif said == length:
                    track = torch.full((rows,), stream.pad_id)
                else:
                    track = tracks[stream.name][:, row, said]
                assert torch.equal(frames[stream.name][:, row], track)
    assert state.position.tolist() == [length] * rows


def test_rows_of_a_ring_may_be_at_different_ticks() -> None:
    stream = Stream("out", 9, (0, 3), "speak")
    ring = TokenRing(StreamLayout((stream,)))
    state = ring.init_state(2)
    ring.read(state, {})
    ring.write(state, {"out": torch.tensor([[1, stream.start_id]] * 2)})
    state.tokens[1], state.position[1] = 0, 0
    for _ in range(2):
        assert ring.may_speak(state, stream).tolist() == [[True, bool(state.position[0] >= 2)], [True, False]]
        assert ring.read(state, {})[1, 1] == stream.start_id
        ring.write(state, {"out": torch.tensor([[1, 2], [1, stream.start_id]])})


def test_the_dialogue_layout() -> None:
    layout = dialogue_layout(8, 1024, 512, acoustic_delay=2)
    assert [(s.name, s.num_rows, s.side) for s in layout.streams] == [
        ("user", 8, "hear"),
        ("user_text", 1, "speak"),
        ("agent_text", 1, "speak"),
        ("agent", 8, "speak"),
    ]
    assert layout.num_rows == 18
    assert layout.rows("agent_text") == slice(9, 10)
    assert layout.stream("agent").delays == (0,) + (2,) * 7
    assert layout.stream("user").max_delay == 0
    text = layout.stream("user_text")
    assert (text.start_id, text.pad_id, text.table_size) == (512, 513, 514)


says: Any = "says"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stream("a", 4, (), "hear"), r"stream a: delays are \(\), allowed is one of 0..64 per row"),
        (lambda: Stream("a", 4, (0, 65), "hear"), "delays are"),
        (lambda: Stream("a", 4, (-1,), "hear"), "delays are"),
        (lambda: Stream("a", 4, (0,), says), "side is 'says', allowed are 'hear' and 'speak'"),
        (lambda: Stream("a", 0, (0,), "hear"), "vocab_size is 0, allowed is 1 and above"),
        (lambda: StreamLayout((Stream("a", 4, (0,), "hear"),) * 2), r"names \['a', 'a'\] are not all different"),
        (lambda: LAYOUT.rows("b"), r"no stream is named 'b'; there are \['in', 'out'\]"),
        (lambda: LAYOUT.stream("b"), "no stream is named 'b'"),
    ],
)
def test_wrong_layouts_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_tracks_are_refused() -> None:
    tracks = random_tracks(LAYOUT, 2, 5)
    with pytest.raises(ValueError, match=r"no track for the stream 'out'; there are \['in'\]"):
        build_grid(LAYOUT, {"in": tracks["in"]})
    with pytest.raises(ValueError, match=r"track 'in' has the shape \[2, 1, 5\], expected \[B, 2, T\]"):
        build_grid(LAYOUT, tracks | {"in": tracks["in"][:, :1]})
    with pytest.raises(ValueError, match=r"different lengths: \{'in': 4, 'out': 5\}"):
        build_grid(LAYOUT, tracks | {"in": tracks["in"][..., :4]})
    build_grid(LAYOUT, tracks | {"lengths": torch.tensor([5, 3])})


def test_wrong_ticks_are_refused() -> None:
    ring = TokenRing(LAYOUT)
    state = ring.init_state(2)
    with pytest.raises(ValueError, match=r"ids of the stream 'in' are missing, expected the shape \[2, 2\]"):
        ring.read(state, {})
    with pytest.raises(ValueError, match=r"ids of the stream 'in' are \[2, 1\], expected the shape \[2, 2\]"):
        ring.read(state, {"in": torch.zeros(2, 1, dtype=torch.long)})
    with pytest.raises(ValueError, match=r"ids of the stream 'out' are \[2\], expected the shape \[2, 1\]"):
        ring.write(state, {"out": torch.zeros(2, dtype=torch.long)})
    assert not state.tokens.any() and not state.position.any()


def test_a_row_that_waits_begins_with_a_pad_of_the_agents_text() -> None:
    layout = dialogue_layout(2, 16, 8)
    ring, grid = TokenRing(layout), torch.zeros(2, layout.num_rows, 5, dtype=torch.long)
    waits = torch.tensor([False, True])
    state = ring.init_state(2)
    ring.wait(state, waits)
    live = ring.read(state, {"user": torch.zeros(2, 2, dtype=torch.long)})
    assert torch.equal(live, model_inputs(layout, grid, waits)[..., 0])
    different = (live[0] != live[1]).nonzero()[:, 0].tolist()
    assert different == [layout.rows("agent_text").start]
    assert live[1, different[0]] == layout.stream("agent_text").pad_id
    assert torch.equal(model_inputs(layout, grid), model_inputs(layout, grid, torch.zeros(2, dtype=torch.bool)))
    state.position += 1
    with pytest.raises(ValueError, match="before the first step"):
        ring.wait(state, waits)
