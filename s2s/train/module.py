"""The LightningModule of the duplex model: the grid, the weighted losses of its streams, the optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.config import to_dict
from s2s.models.duplex import DuplexConfig, DuplexModel
from s2s.models.plan import Plan
from s2s.models.spelling import Spelling
from s2s.streams import AGENT_TEXT, USER_TEXT, build_grid, model_inputs
from s2s.text import Tokenizer
from s2s.train.ahead import EVE, next_tokens
from s2s.train.loss import mean_over_ranks, weighted_cross_entropy
from s2s.train.plan import beginnings
from s2s.train.reading import Reading, ReadRows
from s2s.train.rhythm import repeats, unsteady
from s2s.train.schedule import warmup_cosine
from s2s.train.spelling import SpellingLoss, untimed_loss
from s2s.train.talking import (
    OWN_ROUNDS,
    OWN_STEPS,
    Lesson,
    next_frame,
    own_past,
    partly_hidden,
    shifted,
    spans,
    spliced,
    stop_loss,
    timing_loss,
)
from s2s.train.work import Work, count_skipped, duplex_flops

MOST_STOPPED = 2
"""Rows of a batch that a talker trained alone learns from where the agent breaks off."""


@dataclass(frozen=True)
class DuplexTrainConfig:
    """How a duplex model is trained.

    The audio loss is computed on `speaking_share` of the steps where the agent speaks and on `silent_share` of the
    others, which count `silent_weight` each; the steps drawn stand for those left out. With an `audio_weight` of 0 a
    talker's voice stays as it is, which needs nothing of the backbone. `pad_weight` is what a PAD of a text stream
    counts beside a word. `history_noise` is the share of the model's own past codes and words that are
    replaced by random ones, so that it learns to live with its own errors. In a `hidden_transcripts` share of rows it
    sees nothing at all of what it has written down of the caller, so that its replies follow what it heard; in a
    `hidden_voice` share nothing of its own past codes, so that its words follow its words. Of what is heard, spans that
    make up `masked_share` of the steps are blanked, and in a `level_dropout` share of rows the codebooks from some
    level on.
    In a `dictated_share` of rows the caller is another row's, who has nothing to do with what the agent says: the loss
    of the agent's text is left out there, and its sound has only this text to follow. Without such rows the two agree
    in all of training, and what is said need not be what is written. In half of them, where the codec's silence is
    known, nobody calls at all, as in `s2s speak`.
    `ahead_weight` is that of the agent's next token, for models that look `ahead`, see `train.ahead`; `plan_weight` is
    that of how its replies begin, for models that plan, see `train.plan`.
    `spelling_weight` and `wording_weight` are those of the losses of spelling in pieces and in tokens, for models that
    spell what the caller says. A `read_share` of rows is read instead of heard, see `train.reading`.
    With `replies_only` hearing and speaking stay as they are: only the layers behind `wording_layer` are trained, and
    only on the agent's text. Which reply follows from which words takes many more calls than their sound does, and
    words cost a quarter of it.
    With `talker_only` it is the other way round: only the talker and the depth transformer are trained, on the agent's
    tracks alone. In a `spliced_share` of batches its words stand in another order, see `train.talking`; in a
    `shifted_share` of rows its text comes a step early or late; a `hidden_share` of its past codes is hidden; in an
    `own_share` it hears what it would have said itself.
    In an `unsteady_share` of the rows that are only written the words come at other times, see `train.rhythm`.
    `stop_weight` is that of the loss of where it breaks off, `timing_weight` that of when its next word comes.
    Gradients are clipped to `clip_norm`; after `max_skipped_steps` steps with gradients that are not finite training
    stops.
    """

    model: DuplexConfig = field(default_factory=DuplexConfig)
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    total_steps: int = 5000
    final_ratio: float = 0.05
    user_text_weight: float = 1.0
    agent_text_weight: float = 1.0
    pad_weight: float = 0.5
    audio_weight: float = 1.0
    first_codebook_weight: float = 4.0
    speaking_share: float = 0.5
    silent_share: float = 0.1
    silent_weight: float = 0.3
    history_noise: float = 0.02
    hidden_transcripts: float = 0.4
    hidden_voice: float = 0.3
    clip_norm: float = 1.0
    masked_share: float = 0.12
    level_dropout: float = 0.3
    spelling_weight: float = 0.5
    wording_weight: float = 0.5
    ahead_weight: float = 1.0
    plan_weight: float = 1.0
    read_share: float = 0.0
    dictated_share: float = 0.0
    replies_only: bool = False
    talker_only: bool = False
    spliced_share: float = 0.3
    shifted_share: float = 0.3
    hidden_share: float = 0.1
    own_share: float = 0.0
    unsteady_share: float = 0.0
    stop_weight: float = 0.1
    timing_weight: float = 0.3
    max_skipped_steps: int = 20


class DuplexModule(pl.LightningModule):
    """Batches are the tracks of the layout plus {"agent_active": [B, T], "lengths": [B]}, and perhaps "waits" [B]."""

    def __init__(self, config: DuplexTrainConfig, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config = config
        self.model = DuplexModel(config.model)
        if tokenizer is not None and self.model.talker is not None and self.model.talker.timing is not None:
            self.model.talker.timing.know(tokenizer)
        self.spelling: SpellingLoss | None = None
        if tokenizer is not None and self.model.spelling is not None:
            self.spelling = SpellingLoss(tokenizer, config.model.spelling_pieces)
        self.reading: Reading | None = None
        if config.read_share and tokenizer is not None and not config.model.wording_layer:
            raise ValueError("read_share needs model.wording_layer, behind which tokens can be read")
        if config.model.wording_layer and tokenizer is not None:
            self.reading = Reading(tokenizer, config.model.layout.stream(USER_TEXT), config.read_share)
        if config.replies_only and config.talker_only:
            raise ValueError("replies_only and talker_only leave nothing to train, allowed is one of them")
        if config.replies_only:
            self._keep_but_replies()
        if config.talker_only:
            self._keep_but_talker()
        if not config.audio_weight:
            self._keep_voice()
        self.silence: Tensor | None = None  # codes [K] of a caller who says nothing, where the codec is known
        self.skipped_steps = 0
        self.step_taken = True
        self.work = Work()

    def _keep_but_replies(self) -> None:
        model = self.model
        if model.wording is None:
            raise ValueError("replies_only needs model.wording_layer, the layers behind which are trained")
        self.requires_grad_(False)
        layers = model.backbone.layers[model.config.wording_layer :]
        heads = (model.text_heads[AGENT_TEXT], model.ahead, model.plan)
        for part in (layers, model.backbone.norm, model.wording.back, *heads):
            if part is not None:
                part.requires_grad_(True)

    def _keep_but_talker(self) -> None:
        if self.model.talker is None or self.model.depth is None:
            raise ValueError("talker_only needs model.talker, which is trained")
        self.requires_grad_(False)
        for part in (self.model.talker, self.model.depth):
            part.requires_grad_(True)

    def _keep_voice(self) -> None:
        """What a talker makes of the agent's words stays as it is; where it breaks off is still learned."""
        model = self.model
        if model.talker is None:
            return
        own = [model.embeddings[stream.name] for stream in model.layout.side("speak") if stream.name != USER_TEXT]
        for part in (model.talker, model.depth, *own):
            if part is not None:
                part.requires_grad_(False)
        model.talker.stop.requires_grad_(not self.config.replies_only)

    def configure_optimizers(self) -> Any:
        c = self.config
        trained = [p for p in self.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.dim() >= 2]
        others = [p for p in trained if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": c.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, c.learning_rate, betas=(0.9, 0.95), fused=self.device.type == "cuda")
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, step: int) -> float:
        c = self.config
        return warmup_cosine(step, c.warmup_steps, c.total_steps, c.final_ratio)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        parts = self.losses(batch)
        loss = torch.stack(list(parts.values())).sum()
        ranks = self.trainer.world_size > 1
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, sync_dist=ranks)
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=ranks)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        parts = self.losses(batch)
        parts["loss"] = torch.stack(list(parts.values())).sum()
        logs = {f"val/{name}": value for name, value in parts.items()}
        self.log_dict(logs, prog_bar=True, batch_size=len(batch["lengths"]), sync_dist=self.trainer.world_size > 1)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every part of the loss, already weighted."""
        c, layout, lengths = self.config, self.model.layout, batch["lengths"]
        tracks = {s.name: batch[s.name].long() for s in layout.streams}
        if c.talker_only:
            return self._talker_losses(tracks, batch)
        tracks, waits, dictated = self._dictated(tracks, batch.get("waits"), lengths)
        read: ReadRows | None = None
        if self.reading is not None:
            written, unspoken = (tracks[n][:, 0, 0] == layout.stream(n).pad_id for n in ("user", "agent"))
            texts = tracks[USER_TEXT][:, 0], tracks[AGENT_TEXT][:, 0]
            read = self.reading.draw(*texts, written, unspoken, self.training)
            tracks |= {USER_TEXT: read.user_text[:, None], AGENT_TEXT: read.agent_text[:, None]}
            if self.training:
                tracks, lengths = self._in_other_rhythms(tracks, lengths, written & unspoken)
        grid, mask = build_grid(layout, tracks)
        steps = torch.arange(grid.shape[-1], device=grid.device)
        valid = steps < lengths[:, None] - 1  # the last column predicts a frame beyond the end
        inputs = said = model_inputs(layout, grid, waits)
        if self.training:
            inputs = self._with_masks(self._with_noise(inputs))
        given, sounds = None, valid
        if self.reading is not None and read is not None:
            given = self.reading.given(grid[:, layout.rows(USER_TEXT).start], read)
            inputs = self._without_sound(inputs, read)
            sounds = valid & ~read.unspoken[:, None]
        with _outputs(self.model.spelling) as pieces, _outputs(self.model.wording) as tokens:
            hidden = self.model(inputs, read=given)
        parts = {} if c.replies_only else self._inner_losses(pieces, tokens, tracks[USER_TEXT], read, lengths)
        for name, head in self.model.text_heads.items():
            if c.replies_only and name != AGENT_TEXT:
                continue
            logits = head(hidden)
            if name in c.model.untimed:
                loss = self._untimed(logits, name, tracks[name], lengths)
            else:
                target = grid[:, layout.rows(name).start]
                weight = torch.where(target == layout.stream(name).pad_id, c.pad_weight, 1.0) * valid
                if name == AGENT_TEXT:
                    weight = weight * ~dictated[:, None]
                loss, _ = weighted_cross_entropy(logits, target, weight * mask[:, layout.rows(name).start])
            parts[name] = getattr(c, f"{name}_weight", 1.0) * loss
        if self.model.ahead is not None:
            vocab_size, written = layout.stream(AGENT_TEXT).vocab_size, grid[:, layout.rows(AGENT_TEXT).start]
            user = grid[:, layout.rows(USER_TEXT).start] < layout.stream(USER_TEXT).vocab_size
            over = layout.stream(AGENT_TEXT).pad_id if c.model.talker_keeps_time else None
            target, weight = next_tokens(written, vocab_size, valid, user, over)
            loss, _ = weighted_cross_entropy(self.model.ahead(hidden), target, weight * ~dictated[:, None])
            parts["ahead"] = c.ahead_weight * loss
            if self.model.plan is not None:
                parts["plan"] = c.plan_weight * self._plan_loss(
                    self.model.plan, hidden, written, valid & ~dictated[:, None]
                )
        self.work = Work(valid.numel(), duplex_flops(self.model, valid.numel(), 0))
        if not c.replies_only:
            if c.audio_weight:
                parts |= self._audio_losses(hidden, said, grid, mask, sounds, batch)
            parts |= self._stop_loss(hidden, sounds & ~dictated[:, None], batch)
        return parts

    def _talker_losses(self, tracks: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of the agent's sound alone; what the backbone thinks is asked for only in rows that are broken off."""
        layout, lengths = self.model.layout, batch["lengths"]
        grid, mask = build_grid(layout, tracks)
        valid = torch.arange(grid.shape[-1], device=grid.device) < lengths[:, None] - 1
        valid = valid & (tracks["agent"][:, 0] != layout.stream("agent").pad_id)
        inputs = model_inputs(layout, grid, batch.get("waits"))
        parts = self._audio_losses(None, inputs, grid, mask, valid, batch)
        rows = batch["agent_stopped"].any(dim=1).nonzero()[:MOST_STOPPED, 0]
        if len(rows):
            with torch.no_grad():
                hidden = self.model(inputs[rows])
            some = {name: batch[name][rows] for name in ("agent_active", "agent_stopped")}
            parts |= self._stop_loss(hidden, valid[rows], some)
        return parts

    def _stop_loss(self, hidden: Tensor, valid: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """That of where the agent breaks off: hidden [B, S, D], steps that are `valid` [B, S]."""
        if self.model.talker is None:
            return {}
        logits = self.model.talker.stop(hidden)[..., 0]
        return {"stop": self.config.stop_weight * stop_loss(logits, valid, batch)}

    def _plan_loss(self, plan: Plan, hidden: Tensor, written: Tensor, valid: Tensor) -> Tensor:
        """That of how replies begin: hidden [B, S, D], tokens `written` [B, S], steps that are `valid` [B, S]."""
        begun = beginnings(written, plan.vocab_size, valid, plan.num_tokens - 1)
        asked = begun.steps
        if self.training:  # a call decides a little earlier or later than the recording that is learned from
            asked = (asked - torch.randint_like(asked, EVE + 1)).clamp(min=0)
        hidden = hidden.gather(1, asked[..., None].expand(-1, -1, hidden.shape[-1]))
        said = torch.arange(1, plan.num_tokens, device=hidden.device).expand_as(begun.tokens)
        last = self.model.embeddings[AGENT_TEXT](begun.last)
        asked = plan(hidden[:, :, None].expand(-1, -1, plan.num_tokens - 1, -1), said, last)
        assert self.model.ahead is not None
        return weighted_cross_entropy(self.model.ahead(asked), begun.tokens, begun.known.float())[0]

    def _inner_losses(
        self, pieces: list[Tensor], tokens: list[Tensor], text: Tensor, read: ReadRows | None, lengths: Tensor
    ) -> dict[str, Tensor]:
        """Those of what inner layers hear, which is nothing where they read; text [B, 1, S] of the caller."""
        c, parts = self.config, dict[str, Tensor]()
        if read is not None:
            text = text.masked_fill(read.rows[:, None, None], self.model.layout.stream(USER_TEXT).pad_id)
        if pieces and self.spelling is not None:
            parts["spelling"] = c.spelling_weight * self.spelling(pieces[0], text[:, 0], lengths)
        if tokens:
            parts["wording"] = c.wording_weight * self._untimed(tokens[0], USER_TEXT, text, lengths)
        return parts

    def _dictated(
        self, tracks: dict[str, Tensor], waits: Tensor | None, lengths: Tensor
    ) -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
        """Tracks, who waits [B], and which rows are dictated [B]: their callers are others, or nobody."""
        share, dictated = self.config.dictated_share, torch.zeros_like(lengths, dtype=torch.bool)
        if not (self.training and share):
            return tracks, waits, dictated
        dice = torch.rand(len(lengths), device=lengths.device) / share
        spoken = tracks["agent"][:, 0, 0] != self.model.layout.stream("agent").pad_id
        dictated, alone = spoken & (dice < 1), spoken & (dice < 0.5)
        tracks = self._with_other_callers(tracks, dictated, lengths)
        if self.silence is not None:
            tracks = self._without_callers(tracks, alone, self.silence)
            waits = None if waits is None else waits | alone
        return tracks, waits, dictated

    def _in_other_rhythms(
        self, tracks: dict[str, Tensor], lengths: Tensor, written: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Tracks and lengths [B], with the agent's words at other times in a share of the rows `written` [B] bool."""
        dice = torch.rand(len(lengths), device=lengths.device)
        agent, caller = (tracks[n][:, 0] < self.model.layout.stream(n).vocab_size for n in (AGENT_TEXT, USER_TEXT))
        changed = written & (dice < self.config.unsteady_share)
        return unsteady(tracks, lengths, torch.where(changed[:, None], repeats(agent, caller), 1))

    def _with_other_callers(self, tracks: dict[str, Tensor], dictated: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """The caller's tracks of rows [B] `dictated` replaced by those of the row before, as far as they reach."""
        tracks = dict(tracks)
        for stream in self.model.layout.streams:
            if stream.side == "hear" or stream.name == USER_TEXT:
                track = tracks[stream.name]
                inside = torch.arange(track.shape[-1], device=track.device) < lengths[:, None, None]
                other = torch.where(inside, track.roll(1, dims=0), stream.pad_id)
                tracks[stream.name] = torch.where(dictated[:, None, None], other, track)
        return tracks

    def _without_callers(self, tracks: dict[str, Tensor], alone: Tensor, silence: Tensor) -> dict[str, Tensor]:
        """The caller's tracks of rows [B] `alone` as they are while nobody says anything."""
        tracks = dict(tracks)
        for stream in self.model.layout.streams:
            if stream.side == "hear" or stream.name == USER_TEXT:
                nothing = silence.to(alone.device)[:, None] if stream.num_rows > 1 else stream.pad_id
                tracks[stream.name] = torch.where(alone[:, None, None], nothing, tracks[stream.name])
        return tracks

    def _untimed(self, logits: Tensor, name: str, track: Tensor, lengths: Tensor) -> Tensor:
        """The loss of logits [B, S, V + 2] against the tokens of a track [B, 1, S] without their times."""
        stream, ids = self.model.layout.stream(name), track[:, 0]
        return untimed_loss(logits, ids, ids < stream.vocab_size, lengths, blank=stream.pad_id)

    def _without_sound(self, inputs: Tensor, read: ReadRows) -> Tensor:
        """Nothing of the caller's sound where the model reads, nor of the agent's where none says its words."""
        inputs, silent = inputs.clone(), {"hear": read.rows, "speak": read.unspoken}
        for stream in self.model.layout.streams:
            if stream.num_rows > 1:
                rows = self.model.layout.rows(stream.name)
                inputs[:, rows] = inputs[:, rows].masked_fill(silent[stream.side][:, None, None], stream.pad_id)
        return inputs

    def _audio_losses(
        self,
        hidden: Tensor | None,
        inputs: Tensor,
        grid: Tensor,
        mask: Tensor,
        valid: Tensor,
        batch: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Those of the agent's codes, given what the backbone thinks or, with a talker, the agent's own tracks."""
        stream, depth, c = self.model.audio_stream, self.model.depth, self.config
        if stream is None or depth is None:
            return {}
        parts: dict[str, Tensor] = {}
        rows = self.model.layout.rows(stream.name)
        speaking = self._speaking(batch["agent_active"])
        share = torch.where(speaking, c.speaking_share, c.silent_share)
        if not self.training:
            share = torch.ones_like(share)
        chosen = (torch.rand(share.shape, device=share.device) < share) & valid
        weight = mask[:, rows] * torch.where(speaking, 1.0, c.silent_weight)[:, None] / share[:, None]
        codes = grid[:, rows]
        if self.model.talker is not None:
            # Where it breaks off is not for the talker to know.
            weight = weight * ~next_frame(batch["agent_stopped"])[:, None]
            text = grid[:, self.model.layout.rows(AGENT_TEXT).start]
            lesson = Lesson(text, inputs[:, rows], codes, weight, chosen)
            given = lesson = self._spliced(lesson)
            if self.training:
                given = self._disturbed(lesson)
            hidden = self.model.talk(given.text, given.past)
            if self.model.talker.timing is not None:
                # By the words as they were given: else a word that comes early would be due once more.
                heard = lesson.codes[:, 0] < stream.vocab_size
                timing = timing_loss(self.model.talker.timing, hidden, given.text, heard)
                parts["timing"] = c.timing_weight * timing
            codes, weight, chosen = lesson.codes, lesson.weight, lesson.chosen
        assert hidden is not None
        index = chosen.flatten().nonzero()[:, 0]
        codes, counts = (x.transpose(1, 2).flatten(0, 1)[index] for x in (codes, weight))  # [M, K]
        logits = depth(hidden.flatten(0, 1)[index], codes)  # [M, K, V]
        if self.training:
            flops = duplex_flops(self.model, valid.numel(), len(index), thinks=not c.talker_only)
            self.work = Work(valid.numel(), flops)
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), codes.flatten().clamp(max=stream.vocab_size - 1), reduction="none"
        )
        per_codebook = (losses.view_as(counts) * counts).sum(0) / mean_over_ranks(counts.sum(0)).clamp(min=1e-6)
        level = torch.ones_like(per_codebook)
        level[0] = c.first_codebook_weight
        per_codebook = c.audio_weight * per_codebook * level / level.sum()
        return parts | {"agent_first": per_codebook[0], "agent_rest": per_codebook[1:].sum()}

    def _spliced(self, lesson: Lesson) -> Lesson:
        """What a talker learns from, now and then with the words in another order."""
        if self.training and torch.rand(()) < self.config.spliced_share:
            return spliced(lesson, self.model.layout.stream(AGENT_TEXT).vocab_size)
        return lesson

    def _disturbed(self, lesson: Lesson) -> Lesson:
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

    @torch.no_grad()
    def _says(self, lesson: Lesson) -> Tensor:
        """What the talker would say in each step if the steps before were as the lesson has them: codes [B, K, S]."""
        assert self.model.depth is not None
        codes = lesson.codes.transpose(1, 2).flatten(0, 1)
        found = self.model.depth(self.model.talk(lesson.text, lesson.past).flatten(0, 1), codes).argmax(dim=-1)
        return found.unflatten(0, (len(lesson.text), -1)).transpose(1, 2)

    def _speaking(self, active: Tensor) -> Tensor:
        """Columns whose predicted frame is speech or its edges, from activity per frame [B, T]."""
        following = F.pad(active[:, 1:].float(), (0, 1))
        # Edges: two frames before, where the onset is decided, and six after, while the codec's tokens settle.
        return F.max_pool1d(F.pad(following[:, None], (6, 2)), 9, stride=1)[:, 0] > 0

    def _with_noise(self, inputs: Tensor) -> Tensor:
        """Wrong tokens in what the model has said before, and no transcript at all in some rows."""
        c, inputs = self.config, inputs.clone()
        for stream in self.model.layout.side("speak"):
            rows = self.model.layout.rows(stream.name)
            past = inputs[:, rows]
            wrong = (torch.rand(past.shape, device=past.device) < c.history_noise) & (past < stream.vocab_size)
            past = torch.where(wrong, torch.randint(stream.vocab_size, past.shape, device=past.device), past)
            share = {"user_text": c.hidden_transcripts, "agent": c.hidden_voice}.get(stream.name, 0.0)
            hidden = torch.rand(len(past), 1, 1, device=past.device) < share
            past = torch.where(hidden & (past < stream.vocab_size), stream.pad_id, past)
            inputs[:, rows] = past
        return inputs

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip; leave out a step whose gradients are not finite, and stop when that happens too often."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.config.clip_norm)
        self.log("train/grad_norm", norm)
        self.step_taken = bool(torch.isfinite(norm))
        if not self.step_taken:
            # Parameters without a gradient are passed over: neither weights nor moments change.
            optimizer.zero_grad(set_to_none=True)
            self.skipped_steps = count_skipped(self.skipped_steps, self.config.max_skipped_steps)

    def _with_masks(self, inputs: Tensor) -> Tensor:
        """Blank spans and fine levels of what is heard, in the manner of Park et al. 2019, "SpecAugment"."""
        c, span, inputs = self.config, 6, inputs.clone()
        for stream in self.model.layout.side("hear"):
            rows = self.model.layout.rows(stream.name)
            heard = inputs[:, rows]
            starts = torch.rand(len(heard), 1, heard.shape[-1], device=heard.device) < c.masked_share / span
            blank = F.max_pool1d(F.pad(starts.float(), (span - 1, 0)), span, stride=1) > 0  # [B, 1, S]
            level = torch.arange(heard.shape[1], device=heard.device)
            kept = torch.randint(1, heard.shape[1] + 1, (len(heard), 1), device=heard.device)
            dropped = (torch.rand(len(heard), 1, device=heard.device) < c.level_dropout) & (level >= kept)
            inputs[:, rows] = heard.masked_fill(blank | dropped[..., None], stream.pad_id)
        return inputs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["config"] = to_dict(self.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_steps = checkpoint.get("skipped_steps", 0)


@contextmanager
def _outputs(spelling: Spelling | None) -> Iterator[list[Tensor]]:
    """Collects the logits of a spelling while the model runs; none where the model has no such spelling."""
    outputs: list[Tensor] = []
    if spelling is None:
        yield outputs
        return
    handle = spelling.head.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()
