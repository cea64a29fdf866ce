"""The LightningModule of the duplex model: the grid, the weighted losses of its streams, the optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from s2s.config import to_dict
from s2s.models.duplex import DuplexModel
from s2s.models.plan import Plan
from s2s.models.spelling import Spelling
from s2s.streams import AGENT_TEXT, USER_TEXT, build_grid, model_inputs
from s2s.text import Tokenizer
from s2s.train.ahead import EVE, next_tokens
from s2s.train.loss import weighted_cross_entropy
from s2s.train.objective import DuplexTrainConfig
from s2s.train.plan import beginnings
from s2s.train.reading import Reading, ReadRows
from s2s.train.rhythm import repeats, unsteady
from s2s.train.schedule import warmup_cosine
from s2s.train.sound import SoundLosses
from s2s.train.spelling import SpellingLoss, untimed_loss
from s2s.train.talking import next_frame
from s2s.train.work import Work, count_skipped, duplex_flops


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
        if config.talker_only and not config.audio_weight:
            raise ValueError("talker_only with an audio_weight of 0 leaves nothing to train")
        if config.replies_only:
            self._keep_but_replies()
        if config.talker_only:
            self._keep_but_talker()
        if not config.audio_weight:
            self._keep_voice()
        self.sound = SoundLosses(self.model, config)
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
        stop = model.talker.stop if model.talker is not None and self.config.stop_weight else None
        heads = (model.text_heads[AGENT_TEXT], model.ahead, model.plan, stop)
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
        model.talker.stop.requires_grad_(self.config.stop_weight > 0)

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
            parts, self.work = self.sound.alone(tracks, batch)
            return parts
        tracks, waits, dictated = self._dictated(tracks, batch.get("waits"), lengths)
        read: ReadRows | None = None
        if self.reading is not None:
            written, unspoken = (tracks[n][:, 0, 0] == layout.stream(n).pad_id for n in ("user", "agent"))
            texts = tracks[USER_TEXT][:, 0], tracks[AGENT_TEXT][:, 0]
            read = self.reading.draw(*texts, written, unspoken, self.training)
            tracks |= {USER_TEXT: read.user_text[:, None], AGENT_TEXT: read.agent_text[:, None]}
            if self.training and c.model.talker_keeps_time:
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
        erred = next_frame(batch["agent_erred"]) if "agent_erred" in batch else torch.zeros_like(valid)
        learned = valid & ~dictated[:, None] & ~erred
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
                    weight = weight * learned
                loss, _ = weighted_cross_entropy(logits, target, weight * mask[:, layout.rows(name).start])
            parts[name] = getattr(c, f"{name}_weight", 1.0) * loss
        if self.model.ahead is not None:
            vocab_size, written = layout.stream(AGENT_TEXT).vocab_size, grid[:, layout.rows(AGENT_TEXT).start]
            user = grid[:, layout.rows(USER_TEXT).start] < layout.stream(USER_TEXT).vocab_size
            over = layout.stream(AGENT_TEXT).pad_id if c.model.talker_keeps_time else None
            target, weight = next_tokens(written, vocab_size, valid & ~erred, user, over)
            loss, _ = weighted_cross_entropy(self.model.ahead(hidden), target, weight * learned)
            parts["ahead"] = c.ahead_weight * loss
            if self.model.plan is not None:
                parts["plan"] = c.plan_weight * self._plan_loss(self.model.plan, hidden, written, learned)
        depth_steps = 0
        if c.audio_weight and not c.replies_only:
            more, depth_steps = self.sound.codes(hidden, said, grid, mask, sounds, batch)
            parts |= more
        if c.stop_weight:
            parts |= self.sound.stop(hidden, sounds & ~dictated[:, None], batch)
        self.work = Work(valid.numel(), duplex_flops(self.model, valid.numel(), depth_steps))
        return parts

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
