"""The LightningModule of the codec: a general stage, and a second one that specialises the decoder to a voice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from s2s.audio.resample import resample_tensor
from s2s.codec.spectral import SpectralCodec, SpectralCodecConfig
from s2s.config import to_dict
from s2s.train.discriminator import Discriminators
from s2s.train.loss import SpectralLoss, SpectralLossConfig, discriminator_loss, feature_loss, generator_loss
from s2s.train.schedule import warmup_cosine
from s2s.train.work import Work, codec_flops, count_skipped


@dataclass(frozen=True)
class CodecTrainConfig:
    """How a codec is trained.

    `stage` is "general" (everything learns) or "voice" (encoder and codebooks are frozen: tokens keep their meaning).
    The judges take part from `adversarial_from` on (a step number; None = never) on crops of `adversarial_samples`.
    """

    codec: SpectralCodecConfig = field(default_factory=SpectralCodecConfig)
    loss: SpectralLossConfig = field(default_factory=SpectralLossConfig)
    stage: Literal["general", "voice"] = "general"
    learning_rate: float = 6e-4
    warmup_steps: int = 200
    total_steps: int = 4000
    final_ratio: float = 0.05
    clip_norm: float = 1.0
    commitment_weight: float = 0.25
    level_dropout: float = 0.25
    gain_db: float = 12.0
    telephone_share: float = 0.15
    adversarial_from: int | None = None
    adversarial_samples: int = 12000
    adversarial_weight: float = 0.05
    feature_weight: float = 0.1
    discriminator_rate: float = 3e-4
    max_skipped_steps: int = 20


class CodecModule(pl.LightningModule):
    """Batches are {"wav": [B, 1, N]}; logs every part of the loss and the codebooks' perplexity."""

    def __init__(self, config: CodecTrainConfig):
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.codec = SpectralCodec(config.codec)
        self.loss = SpectralLoss(config.loss, config.codec.spec.sample_rate)
        self.discriminators = Discriminators() if config.adversarial_from is not None else None
        if config.stage == "voice":
            self.codec.encoder.requires_grad_(False)
        self.skipped_steps = 0
        self.step_taken = True
        self.work = Work()

    def configure_optimizers(self) -> Any:
        c = self.config
        learning = [p for p in self.codec.parameters() if p.requires_grad]
        generator = torch.optim.AdamW(learning, c.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
        optimizers: list[torch.optim.Optimizer] = [generator]
        if self.discriminators is not None:
            judges = self.discriminators.parameters()
            optimizers.append(torch.optim.AdamW(judges, c.discriminator_rate, betas=(0.5, 0.9)))
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, self._rate) for o in optimizers]

    def _rate(self, step: int) -> float:
        c = self.config
        return warmup_cosine(step, c.warmup_steps, c.total_steps, c.final_ratio)

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        wav = self._augment(batch["wav"])
        self.work = Work(wav.numel() / self.codec.spec.frame_size, codec_flops(self.codec, wav.numel()))
        codebooks = [buffer.clone() for buffer in self.codec.quantizer.buffers()]
        output, parts, perplexity = self._reconstruct(wav)
        target = wav[:, 0, : output.shape[-1]]
        optimizers: Any = self.optimizers()
        generator, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        parts |= self.loss(output.float(), target)
        if others and self.trainer.fit_loop.total_batch_idx >= (self.config.adversarial_from or 0):
            parts |= self._judge(output, target, others[0])
        total = torch.stack([value for name, value in parts.items() if name != "judges"]).sum()
        generator.zero_grad(set_to_none=True)
        self.manual_backward(total)
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), self.config.clip_norm)
        self._step(generator, norm, codebooks)
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()
        logs = {f"train/{name}": value.detach() for name, value in parts.items()}
        logs |= {"train/perplexity": perplexity, "train/grad_norm": norm}
        self.log_dict(logs, sync_dist=self.trainer.world_size > 1)
        self.log("train/loss", total.detach(), prog_bar=True, sync_dist=self.trainer.world_size > 1)

    def _step(self, generator: Any, norm: Tensor, codebooks: list[Tensor]) -> None:
        """Step, unless gradients are not finite: then the codebooks are put back too."""
        self.step_taken = bool(torch.isfinite(norm))
        if self.step_taken:
            generator.step()
            return
        for buffer, before in zip(self.codec.quantizer.buffers(), codebooks, strict=True):
            buffer.copy_(before)
        self.skipped_steps = count_skipped(self.skipped_steps, self.config.max_skipped_steps)

    def _reconstruct(self, wav: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Decoded audio [B, N - delay], aligned with its input; the quantiser's part of the loss; perplexity."""
        delay = self.codec.synthesis_delay
        if self.config.stage == "voice":
            self.codec.quantizer.eval()
            with torch.no_grad():
                codes = self.codec.encode(wav)
            output = self.codec.decode(codes)
            return output[:, 0, delay:], {}, _perplexity(codes, self.codec.spec.codebook_size)
        output, quantised = self.codec(wav, self._levels(len(wav)))
        parts = {"commitment": self.config.commitment_weight * quantised.commitment}
        return output[:, 0, delay:], parts, _perplexity(quantised.codes, self.codec.spec.codebook_size)

    def _judge(self, output: Tensor, target: Tensor, optimizer: Any) -> dict[str, Tensor]:
        assert self.discriminators is not None
        samples = min(self.config.adversarial_samples, output.shape[-1])
        start = int(torch.randint(output.shape[-1] - samples + 1, ()))
        fake, real = output[:, start : start + samples].float(), target[:, start : start + samples]
        real_logits, real_layers = self.discriminators(real)
        fake_logits, _ = self.discriminators(fake.detach())
        loss = discriminator_loss(real_logits, fake_logits)
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.discriminators.parameters(), 10.0)
        if torch.isfinite(norm):
            # The plain optimiser: a step of the judges is no step of the training, which counts the codec's.
            optimizer.optimizer.step()
        self.discriminators.requires_grad_(False)
        fake_logits, fake_layers = self.discriminators(fake)
        self.discriminators.requires_grad_(True)
        return {
            "judges": loss.detach(),
            "adversarial": self.config.adversarial_weight * generator_loss(fake_logits),
            "feature": self.config.feature_weight * feature_loss(real_layers, fake_layers),
        }

    def _levels(self, rows: int) -> Tensor:
        """How many codebooks each row uses: all, or for a share of rows a random number."""
        count = self.codec.spec.num_codebooks
        random = torch.randint(1, count + 1, (rows,), device=self.device)
        dropped = torch.rand(rows, device=self.device) < self.config.level_dropout
        return torch.where(dropped, random, torch.full_like(random, count))

    @torch.no_grad()
    def _augment(self, wav: Tensor) -> Tensor:
        """Random gain, and for a share of rows the telephone's band."""
        gain = torch.rand(len(wav), 1, 1, device=wav.device) * -self.config.gain_db
        wav = wav * 10 ** (gain / 20)
        rows = torch.rand(len(wav)) < self.config.telephone_share
        if rows.any():
            rate = self.codec.spec.sample_rate
            narrow = resample_tensor(wav[rows], rate, 8000)
            wide = resample_tensor(narrow, 8000, rate)[..., : wav.shape[-1]]
            wav[rows] = wide.to(wav.dtype)
        return wav

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.skipped_steps
        checkpoint["config"] = to_dict(self.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped_steps = checkpoint.get("skipped_steps", 0)


def _perplexity(codes: Tensor, size: int) -> Tensor:
    """Effective number of entries in use, averaged over levels, of codes [B, K, T]."""
    counts = torch.stack([torch.bincount(level.flatten(), minlength=size) for level in codes.transpose(0, 1)]).float()
    share = counts / counts.sum(dim=-1, keepdim=True)
    return torch.exp(-(share * torch.log(share + 1e-9)).sum(dim=-1)).mean()
