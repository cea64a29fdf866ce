"""A step whose agent writes whole given phrases and nothing else, see `s2s.phrases`.

When the agent writes something is the model's decision, and so is which phrase it begins; inside a phrase the model
only chooses among the tokens with which it can go on, most often one. All phrases that what was written may be the
beginning of are followed at once, so that none is decided on before it has to be. An agent that was interrupted, and so
has been silent for `RESTART_STEPS`, may begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.codec.base import Codec
from s2s.models.duplex import DuplexModel
from s2s.models.step import DuplexState, DuplexStep
from s2s.nn.sampling import Controls
from s2s.phrases import Graph
from s2s.streams import AGENT_TEXT

RESTART_STEPS = 16
"""Steps without a token after which a phrase counts as broken off: as long as a pause between two sentences of one."""


@dataclass
class PhrasedState(DuplexState):
    """moved: where each row may be in the graph other than at its start [B, places] bool, and in place 0 whether it is
    not there: a new state is all zeros. idle: steps since its last token [B].
    """

    moved: Tensor
    idle: Tensor


class PhrasedStep(DuplexStep):
    """The duplex step on a graph of phrases."""

    def __init__(self, codec: Codec, model: DuplexModel, graph: Graph, silence: Tensor | None = None):
        super().__init__(codec, model, silence)
        self.graph, self.stream, device = graph, model.layout.stream(AGENT_TEXT), self.silence.device
        if max(token for _, token, _ in graph.edges) >= self.stream.vocab_size:
            raise ValueError(
                f"the phrases hold tokens beyond the {self.stream.vocab_size} of the stream {AGENT_TEXT!r}"
            )
        self._from, self._token, self._to = torch.tensor(graph.edges, device=device).unbind(1)
        self._final = torch.zeros(graph.places, dtype=torch.bool, device=device)
        self._final[sorted(graph.final)] = True
        self._start = torch.zeros_like(self._final)
        self._start[0] = True

    def on(self, codec: Codec, model: DuplexModel) -> PhrasedStep:
        return PhrasedStep(codec, model, self.graph, self.silence)

    def init_state(self, rows: int) -> PhrasedState:
        duplex, device = super().init_state(rows), self.silence.device
        moved = torch.zeros(rows, self.graph.places, dtype=torch.bool, device=device)
        idle = torch.zeros(rows, dtype=torch.long, device=device)
        return PhrasedState(duplex.encoder, duplex.ring, duplex.backbone, duplex.decoder, moved, idle)

    def text_logits(self, hidden: Tensor, state: DuplexState) -> dict[str, Tensor]:
        assert isinstance(state, PhrasedState)
        logits = super().text_logits(hidden, state)
        logits[AGENT_TEXT] = self._allowed(logits[AGENT_TEXT], state)
        return logits

    def say_text(
        self, hidden: Tensor, state: DuplexState, controls: Controls | None, draws: Tensor
    ) -> dict[str, Tensor]:
        assert isinstance(state, PhrasedState)
        said = super().say_text(hidden, state, controls, draws)
        self._follow(said[AGENT_TEXT][:, 0], state)
        return said

    def _allowed(self, logits: Tensor, state: PhrasedState) -> Tensor:
        """Logits [B, V + 2] without the tokens that no phrase goes on with."""
        size, pad, at = self.stream.vocab_size, self.stream.pad_id, state.moved ^ self._start
        open_edges = at[:, self._from].to(logits.dtype)
        allowed = logits.new_zeros(len(logits), logits.shape[1]).index_add(1, self._token, open_edges) > 0
        # Inside a phrase a model that would write another token wants to go on; before one it had better be silent.
        wants = logits[:, :size].amax(dim=1) > logits[:, pad]
        inside = ~at[:, 0] & allowed[:, :size].any(dim=1)
        allowed[:, size:] = ~(wants & inside)[:, None]
        return torch.where(allowed, logits, -torch.inf)

    def _follow(self, ids: Tensor, state: PhrasedState) -> None:
        """Move every row along the edges of the token that it has written, ids [B]."""
        at = state.moved ^ self._start
        taken = at[:, self._from] & (self._token == ids[:, None])
        reached = torch.zeros_like(at, dtype=torch.float32).index_add(1, self._to, taken.float()) > 0
        said = (ids < self.stream.vocab_size)[:, None]
        at = torch.where(said, reached, at)
        idle = torch.where(said[:, 0], 0, state.idle + 1)
        anew = (at & self._final).any(dim=1) | (idle >= RESTART_STEPS)
        state.moved.copy_((at | (anew[:, None] & self._start)) ^ self._start)
        state.idle.copy_(idle)
