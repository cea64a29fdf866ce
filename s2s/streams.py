"""Named token streams, the grid they form and its clock.

Tick s: hear frame s, say frame s + 1. At step s the model reads the hear-rows of column s and its own speak-rows of
column s - 1 (START at s = 0), and predicts its speak-rows of column s. Frame t of a hear-row with delay d lies in
column t + d, frame t of a speak-row in column t - 1 + d; the audio said at tick s is frame s + 1 - (the stream's
largest delay).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MAX_DELAY = 64
USER_TEXT = "user_text"
AGENT_TEXT = "agent_text"


@dataclass(frozen=True)
class Stream:
    """One signal as one or more grid rows of tokens; `delays` (in steps) has an entry per row.

    Ids 0 ... vocab_size - 1 are content. START stands before the first frame; PAD says "nothing here" (text streams say
    it most of the time) and fills up behind the last frame.
    """

    name: str
    vocab_size: int
    delays: tuple[int, ...]
    side: Literal["hear", "speak"]

    def __post_init__(self) -> None:
        if not self.delays or not all(0 <= d <= MAX_DELAY for d in self.delays):
            raise ValueError(f"stream {self.name}: delays are {self.delays}, allowed is one of 0..{MAX_DELAY} per row")
        if self.side not in ("hear", "speak"):
            raise ValueError(f"stream {self.name}: side is {self.side!r}, allowed are 'hear' and 'speak'")
        if self.vocab_size < 1:
            raise ValueError(f"stream {self.name}: vocab_size is {self.vocab_size}, allowed is 1 and above")

    @property
    def num_rows(self) -> int:
        return len(self.delays)

    @property
    def max_delay(self) -> int:
        return max(self.delays)

    @property
    def start_id(self) -> int:
        return self.vocab_size

    @property
    def pad_id(self) -> int:
        return self.vocab_size + 1

    @property
    def table_size(self) -> int:
        """Entries of an embedding table: content, START and PAD."""
        return self.vocab_size + 2


@dataclass(frozen=True)
class StreamLayout:
    """The streams of a model, top to bottom in the grid."""

    streams: tuple[Stream, ...]

    def __post_init__(self) -> None:
        names = [s.name for s in self.streams]
        if len(set(names)) != len(names):
            raise ValueError(f"stream names {names} are not all different")

    @property
    def num_rows(self) -> int:
        return sum(s.num_rows for s in self.streams)

    def stream(self, name: str) -> Stream:
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ValueError(f"no stream is named {name!r}; there are {[s.name for s in self.streams]}")

    def rows(self, name: str) -> slice:
        """Where a stream's rows lie in the grid."""
        start = 0
        for stream in self.streams:
            if stream.name == name:
                return slice(start, start + stream.num_rows)
            start += stream.num_rows
        raise ValueError(f"no stream is named {name!r}; there are {[s.name for s in self.streams]}")

    def side(self, side: str) -> tuple[Stream, ...]:
        return tuple(s for s in self.streams if s.side == side)


def dialogue_layout(
    num_codebooks: int, codebook_size: int, text_vocab_size: int, acoustic_delay: int = 0
) -> StreamLayout:
    """The streams of a conversation: the caller's audio is heard; both transcripts and the agent's audio are said.

    `acoustic_delay` holds back all of the agent's codebooks but the first.
    """
    delays = (0,) + (acoustic_delay,) * (num_codebooks - 1)
    return StreamLayout(
        (
            Stream("user", codebook_size, (0,) * num_codebooks, "hear"),
            Stream(USER_TEXT, text_vocab_size, (0,), "speak"),
            Stream(AGENT_TEXT, text_vocab_size, (0,), "speak"),
            Stream("agent", codebook_size, delays, "speak"),
        )
    )


def build_grid(layout: StreamLayout, tracks: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The grid of whole sequences.

    Args:
        tracks: ids of every stream, name -> [B, rows, T].

    Returns:
        grid [B, R, T] and mask [B, R, T], True where a speak-row holds a frame of its track (what a loss may count).
    """
    columns, masks = [], []
    lengths = {s.name: tracks[s.name].shape[-1] for s in layout.streams if s.name in tracks}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the tracks have different lengths: {lengths}")
    for stream in layout.streams:
        if stream.name not in tracks:
            raise ValueError(f"no track for the stream {stream.name!r}; there are {sorted(tracks)}")
        track = tracks[stream.name]
        if track.dim() != 3 or track.shape[1] != stream.num_rows:
            raise ValueError(
                f"track {stream.name!r} has the shape {list(track.shape)}, expected [B, {stream.num_rows}, T]"
            )
        for row, delay in enumerate(stream.delays):
            ids, mask = _place(track[:, row], delay if stream.side == "hear" else delay - 1, stream)
            columns.append(ids)
            masks.append(mask & (stream.side == "speak"))
    return torch.stack(columns, dim=1), torch.stack(masks, dim=1)


def _place(track: Tensor, offset: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """Put frame t into column t + offset, [B, T] -> ids and mask [B, T]."""
    length = track.shape[1]
    frame = torch.arange(length, device=track.device) - offset
    inside = (frame >= 0) & (frame < length)
    ids = track[:, frame.clamp(0, max(0, length - 1))]
    ids = torch.where(frame < 0, stream.start_id, torch.where(inside, ids, stream.pad_id))
    return ids, inside.expand_as(ids)


def model_inputs(layout: StreamLayout, grid: Tensor, waits: Tensor | None = None) -> Tensor:
    """What the model reads at each step: hear-rows as they are, speak-rows one column late. [B, R, S] -> [B, R, S].

    `waits` [B] bool: the agent of these rows lets the caller speak first, see `TokenRing.wait`.
    """
    inputs = grid.clone()
    for stream in layout.side("speak"):
        rows = layout.rows(stream.name)
        inputs[:, rows, 1:] = grid[:, rows, :-1]
        inputs[:, rows, 0] = stream.start_id
        if waits is not None and stream.name == AGENT_TEXT:
            inputs[:, rows, 0] = torch.where(waits[:, None], stream.pad_id, stream.start_id)
    return inputs


@dataclass
class RingState:
    """Recent tokens of every grid row, newest last, [B, R, slots]; and the ticks done, position [B].

    Tokens are stored plus one, so that an all-zero state reads as START everywhere.
    """

    tokens: Tensor
    position: Tensor


class TokenRing:
    """The live side of the clock: what to read before a step, and what the step's tokens mean after it."""

    def __init__(self, layout: StreamLayout):
        self.layout = layout
        self.slots = 1 + max(s.max_delay for s in layout.streams)
        newest = self.slots - 1
        rows = [(stream, delay) for stream in layout.streams for delay in stream.delays]
        # Where a step finds what it hears, and where the frame of a spoken stream lies that is complete after it.
        self._read = torch.tensor([newest - (delay if s.side == "hear" else 0) for s, delay in rows])
        self._complete = torch.tensor([newest - (s.max_delay - delay) for s, delay in rows])
        self._delays = {s.name: torch.tensor(s.delays) for s in layout.streams}
        self._start = torch.tensor([s.start_id for s in layout.streams for _ in s.delays])
        self._copies: dict[tuple[int, torch.device], Tensor] = {}

    def init_state(self, rows: int, device: torch.device | str = "cpu") -> RingState:
        tokens = torch.zeros(rows, self.layout.num_rows, self.slots, dtype=torch.long, device=device)
        return RingState(tokens, torch.zeros(rows, dtype=torch.long, device=device))

    def wait(self, state: RingState, waits: Tensor) -> None:
        """Before the first step: in rows where `waits` [B] bool the agent lets the caller speak first.

        Its text then begins with a PAD instead of START: it has already decided to say nothing. Raises ValueError for a
        row that has begun and for a layout without the agent's text.
        """
        rows, stream = self.layout.rows(AGENT_TEXT), self.layout.stream(AGENT_TEXT)
        if bool((waits & (state.position > 0)).any()):
            raise ValueError("whether the agent speaks first is decided before the first step")
        state.tokens[:, rows, -1] = torch.where(waits[:, None], stream.pad_id + 1, state.tokens[:, rows, -1])

    def read(self, state: RingState, heard: Mapping[str, Tensor]) -> Tensor:
        """Take in one frame per hear-stream, name -> [B, rows]; returns the step's inputs [B, R]."""
        self._check(state, heard, "hear")
        for stream in self.layout.side("hear"):
            self._store(state, stream, heard[stream.name])
        return self._at(state, self._read)

    def last(self, state: RingState, name: str) -> Tensor:
        """The ids that a stream has taken in last [B, rows]; START before the first."""
        newest = state.tokens[:, self.layout.rows(name), -1]
        return torch.where(newest == 0, self.layout.stream(name).start_id, newest - 1)

    def may_speak(self, state: RingState, stream: Stream) -> Tensor:
        """Which rows of a speak-stream have begun [B, rows]; the others must say START at this tick."""
        return state.position[:, None] + 1 >= self._on(self._delays[stream.name], state.position.device)

    def write(self, state: RingState, said: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take in the sampled column, name -> [B, rows]; returns the frame each speak-stream has now completed.

        Rows of one stream are aligned again; a frame before the first one reads START.
        """
        self._check(state, said, "speak")
        for stream in self.layout.side("speak"):
            self._store(state, stream, said[stream.name])
        state.position += 1
        frames = self._at(state, self._complete)
        return {stream.name: frames[:, self.layout.rows(stream.name)] for stream in self.layout.side("speak")}

    def _store(self, state: RingState, stream: Stream, ids: Tensor) -> None:
        """Make ids [B, rows] the newest of a stream."""
        tokens = state.tokens[:, self.layout.rows(stream.name)]
        if self.slots > 1:
            tokens.copy_(tokens.roll(-1, dims=-1))
        tokens[..., -1] = ids + 1

    def _at(self, state: RingState, slots: Tensor) -> Tensor:
        """The ids in one slot of each row, slots [R] -> [B, R]; START where nothing has been stored."""
        index = self._on(slots, state.tokens.device)[:, None].expand(len(state.tokens), -1, 1)
        stored = state.tokens.gather(2, index)[..., 0]
        return torch.where(stored == 0, self._on(self._start, stored.device), stored - 1)

    def _on(self, constant: Tensor, device: torch.device) -> Tensor:
        """One of the ring's own tensors on a device, copied there once: a step waits for nothing."""
        if constant.device == device:
            return constant
        key = id(constant), device
        if key not in self._copies:
            self._copies[key] = constant.to(device)
        return self._copies[key]

    def _check(self, state: RingState, given: Mapping[str, Tensor], side: str) -> None:
        for stream in self.layout.side(side):
            expected = [len(state.position), stream.num_rows]
            if stream.name not in given or list(given[stream.name].shape) != expected:
                found = list(given[stream.name].shape) if stream.name in given else "missing"
                raise ValueError(f"ids of the stream {stream.name!r} are {found}, expected the shape {expected}")
