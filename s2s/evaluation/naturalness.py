"""Naturalness: DistillMOS, a small network that predicts the mean opinion score (1 ... 5) of a recording."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from s2s.audio.resample import resample
from s2s.evaluation.extras import require

SAMPLE_RATE = 16000
_INSTALL = "pip install --no-deps distillmos xls-r-sqa"


class Naturalness:
    """The judge of naturalness; real people score 3.7-4.3 and clean synthetic voices about 4.6."""

    def __init__(self) -> None:
        distillmos = require("distillmos", _INSTALL)
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints where its weights are
            self._model: Any = distillmos.ConvTransformerSQAModel().eval()

    @torch.inference_mode()
    def score(self, wavs: Sequence[np.ndarray], sample_rate: int) -> list[float]:
        """Return one score per wav [N]; recordings are judged one at a time, so none depends on its neighbours.

        The model's window is 7.7 s: it repeats over a longer recording and averages. Raises ValueError on an empty one.
        """
        return [self._score_one(wav, sample_rate) for wav in wavs]

    def _score_one(self, wav: np.ndarray, sample_rate: int) -> float:
        if wav.ndim != 1 or len(wav) == 0:
            raise ValueError(f"naturalness takes recordings of shape [N] with N > 0, not {wav.shape}")
        heard = resample(np.asarray(wav, dtype=np.float32), sample_rate, SAMPLE_RATE)
        return float(self._model(torch.from_numpy(np.ascontiguousarray(heard))[None]).item())
