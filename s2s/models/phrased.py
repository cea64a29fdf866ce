"""A step whose agent writes whole given phrases and nothing else, see `s2s.phrases`.

When the agent writes something is the model's decision, and so is which phrase it begins; inside a phrase the model
only chooses among the tokens with which it can go on, most often one. Where it leaves a token out and wants the next
one, in time with its voice, both are written, the second a step later: text and voice stay together. All phrases that
what was written may be the beginning of are followed at once, so that none is decided on before it has to be. An agent
that was interrupted, and so has been silent for `RESTART_STEPS`, may begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    not there: a new state is all zeros. idle: steps since its last token [B]. owed: the token that comes next, as the
    model wanted it already, plus one; 0: none [B].
    """

    moved: Tensor
    idle: Tensor
    owed: Tensor


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
        # Which tokens can follow behind each edge.
        self._then = torch.zeros(graph.places, self.stream.vocab_size, dtype=torch.bool, device=device)
        self._then[self._from, self._token] = True
        self._start = torch.zeros_like(self._final)
        self._start[0] = True

    def on(self, codec: Codec, model: DuplexModel) -> PhrasedStep:
        return PhrasedStep(codec, model, self.graph, self.silence)

    def init_state(self, rows: int) -> PhrasedState:
        duplex, device = super().init_state(rows), self.silence.device
        moved = torch.zeros(rows, self.graph.places, dtype=torch.bool, device=device)
        idle, owed = torch.zeros(2, rows, dtype=torch.long, device=device).unbind(0)
        own = (moved, idle, owed)
        return PhrasedState(
            duplex.encoder, duplex.ring, duplex.backbone, duplex.decoder, duplex.ahead, duplex.talker, *own
        )

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
        size, at = self.stream.vocab_size, state.moved ^ self._start
        best, wanted = logits[:, :size].max(dim=1)
        wants, edges = best > logits[:, self.stream.pad_id], at[:, self._from]
        direct = self._tokens(edges)
        # Inside a phrase a model that would write another token wants to go on; before one it had better be silent.
        going_on = wants & ~at[:, 0] & direct.any(dim=1)
        skipping = self._tokens(edges & self._then[self._to][:, wanted].T)
        skips = going_on & ~_has(direct, wanted) & skipping.any(dim=1)
        owed = (state.owed > 0) & _has(direct, (state.owed - 1).clamp(min=0))
        only = F.one_hot((state.owed - 1).clamp(min=0), size) > 0
        allowed = torch.where(owed[:, None], only, torch.where(skips[:, None], skipping, direct))
        state.owed.copy_(torch.where(skips & ~owed, wanted + 1, 0))
        silence = (~(going_on | owed))[:, None].expand(-1, logits.shape[1] - size)
        return torch.where(torch.cat([allowed, silence], dim=1), logits, -torch.inf)

    def _tokens(self, edges: Tensor) -> Tensor:
        """The tokens [B, V] bool of these edges [B, E] bool."""
        none = torch.zeros(len(edges), self.stream.vocab_size, device=edges.device)
        return none.index_add(1, self._token, edges.float()) > 0

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


def _has(tokens: Tensor, ids: Tensor) -> Tensor:
    """Whether each row's token [B] is among its tokens [B, V] bool."""
    return tokens.gather(1, ids[:, None])[:, 0]
