"""The losses of the agent's sound: its codes, when a talker's next word is due, and where it breaks off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.models.duplex import DuplexModel
from s2s.streams import AGENT_TEXT, build_grid, model_inputs
from s2s.train.loss import mean_over_ranks
from s2s.train.objective import DuplexTrainConfig
from s2s.train.talking import (
    OWN_ROUNDS,
    OWN_STEPS,
    Lesson,
    durations,
    next_frame,
    own_past,
    partly_hidden,
    shifted,
    spans,
    spliced,
    stop_loss,
    timing_loss,
)
from s2s.train.work import Work, duplex_flops

MOST_STOPPED = 2
"""Rows of a batch that a talker trained alone learns from where the agent breaks off."""

BEFORE, AFTER = 2, 6
"""Frames about speech that count as speech: before it, where the onset is decided, and while the tokens settle."""


@dataclass(frozen=True)
class SoundLosses:
    """Parts of the loss by name, already weighted."""

    model: DuplexModel
    config: DuplexTrainConfig

    def alone(self, tracks: dict[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Work]:
        """Of the agent's tracks alone; what the backbone thinks is asked for only in rows that are broken off."""
        layout, lengths = self.model.layout, batch["lengths"]
        grid, mask = build_grid(layout, tracks)
        valid = torch.arange(grid.shape[-1], device=grid.device) < lengths[:, None] - 1
        valid = valid & (tracks["agent"][:, 0] != layout.stream("agent").pad_id)
        inputs = model_inputs(layout, grid, batch.get("waits"))
        parts, said = self.codes(None, inputs, grid, mask, valid, batch)
        rows = batch["agent_stopped"].any(dim=1).nonzero()[:MOST_STOPPED, 0]
        if len(rows):
            with torch.no_grad():
                hidden = self.model(inputs[rows])
            some = {name: batch[name][rows] for name in ("agent_active", "agent_stopped")}
            parts |= self.stop(hidden, valid[rows], some)
        return parts, Work(valid.numel(), duplex_flops(self.model, valid.numel(), said, thinks=False))

    def stop(self, hidden: Tensor, valid: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of where the agent breaks off: hidden [B, S, D], steps that are `valid` [B, S]."""
        if self.model.talker is None:
            return {}
        logits = self.model.talker.stop(hidden)[..., 0]
        return {"stop": self.config.stop_weight * stop_loss(logits, valid, batch)}

    def codes(
        self,
        hidden: Tensor | None,
        inputs: Tensor,
        grid: Tensor,
        mask: Tensor,
        valid: Tensor,
        batch: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], int]:
        """Of the agent's codes, given what the backbone thinks or, with a talker, the agent's own tracks.

        Args: hidden: [B, S, D], not needed with a talker; inputs, grid, mask: [B, R, S]; valid: steps to learn from
        [B, S]. Returns the parts and how many steps the depth transformer has said.
        """
        stream, depth, c = self.model.audio_stream, self.model.depth, self.config
        if stream is None or depth is None:
            return {}, 0
        parts: dict[str, Tensor] = {}
        rows = self.model.layout.rows(stream.name)
        speaking = _speaking(batch["agent_active"])
        share = torch.where(speaking, c.speaking_share, c.silent_share)
        if not self.model.training:
            share = torch.ones_like(share)
        chosen = (torch.rand(share.shape, device=share.device) < share) & valid
        weight = mask[:, rows] * torch.where(speaking, 1.0, c.silent_weight)[:, None] / share[:, None]
        codes = grid[:, rows]
        if self.model.talker is not None:
            # Where it breaks off is not for the talker to know.
            weight = weight * ~next_frame(batch["agent_stopped"])[:, None]
            text = grid[:, self.model.layout.rows(AGENT_TEXT).start]
            lesson = Lesson(text, inputs[:, rows], codes, weight, chosen)
            if self.model.talker.timing is not None and self.model.training:
                timing = self.model.talker.timing
                timing.measure(*durations(timing, text, codes[:, 0] < stream.vocab_size))
            given = lesson = self._spliced(lesson)
            if self.model.training:
                given = self.disturbed(lesson)
            hidden = self.model.talk(given.text, given.past)
            if self.model.talker.timing is not None:
                # By the words as they were given: else a word that comes early would be due once more.
                heard = lesson.codes[:, 0] < stream.vocab_size
                loss = timing_loss(self.model.talker.timing, hidden, given.text, heard)
                parts["timing"] = c.timing_weight * loss
            codes, weight, chosen = lesson.codes, lesson.weight, lesson.chosen
        assert hidden is not None
        index = chosen.flatten().nonzero()[:, 0]
        codes, counts = (x.transpose(1, 2).flatten(0, 1)[index] for x in (codes, weight))  # [M, K]
        logits = depth(hidden.flatten(0, 1)[index], codes)  # [M, K, V]
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), codes.flatten().clamp(max=stream.vocab_size - 1), reduction="none"
        )
        per_codebook = (losses.view_as(counts) * counts).sum(0) / mean_over_ranks(counts.sum(0)).clamp(min=1e-6)
        level = torch.ones_like(per_codebook)
        level[0] = c.first_codebook_weight
        per_codebook = c.audio_weight * per_codebook * level / level.sum()
        return parts | {"agent_first": per_codebook[0], "agent_rest": per_codebook[1:].sum()}, len(index)

    def disturbed(self, lesson: Lesson) -> Lesson:
        """The same as a call would have it: with errors in the past, and words that come early or late."""
        c, stream = self.config, self.model.audio_stream
        assert stream is not None
        words = self.model.layout.stream(AGENT_TEXT)
        past = partly_hidden(lesson.past, c.hidden_share, stream.pad_id)
        wrong = torch.rand(past.shape, device=past.device) < c.history_noise
        past = torch.where(wrong, torch.randint(stream.vocab_size, past.shape, device=past.device), past)
        given = replace(lesson, text=shifted(lesson.text, c.shifted_share, words.pad_id), past=past)
        for _ in range(OWN_ROUNDS if c.own_share else 0):
            own = own_past(self._says(given), past)
            mine = spans(past, c.own_share, OWN_STEPS)
            given = replace(given, past=torch.where(mine & (past < stream.vocab_size), own, past))
        return given

    def _spliced(self, lesson: Lesson) -> Lesson:
        """What a talker learns from, now and then with the words in another order."""
        if self.model.training and torch.rand(()) < self.config.spliced_share:
            return spliced(lesson, self.model.layout.stream(AGENT_TEXT).vocab_size)
        return lesson

    @torch.no_grad()
    def _says(self, lesson: Lesson) -> Tensor:
        """What the talker would say in each step if the steps before were as the lesson has them: codes [B, K, S]."""
        assert self.model.depth is not None
        codes = lesson.codes.transpose(1, 2).flatten(0, 1)
        found = self.model.depth(self.model.talk(lesson.text, lesson.past).flatten(0, 1), codes).argmax(dim=-1)
        return found.unflatten(0, (len(lesson.text), -1)).transpose(1, 2)


def _speaking(active: Tensor) -> Tensor:
    """Columns whose predicted frame is speech or its edges, from activity per frame [B, T]."""
    following = F.pad(active[:, 1:].float(), (0, 1))
    return F.max_pool1d(F.pad(following[:, None], (AFTER, BEFORE)), 1 + AFTER + BEFORE, stride=1)[:, 0] > 0
