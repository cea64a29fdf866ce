"""A step that also tells which pieces of words it hears: what `models.spelling` spells, and the text that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from s2s.codec.base import Codec
from s2s.models.duplex import DuplexModel
from s2s.models.spelling import LETTERS
from s2s.models.step import DuplexState, DuplexStep, StepOut
from s2s.nn.sampling import Controls

LETTER_STREAM = "letters"


class SpellingStep(DuplexStep):
    """The duplex step, whose text also holds LETTER_STREAM: the likeliest class of the step [B], see `spelled`."""

    def __init__(self, codec: Codec, model: DuplexModel, silence: Tensor | None = None):
        super().__init__(codec, model, silence)
        if model.spelling is None:
            raise ValueError("the model does not spell what it hears")
        self.spelling = model.spelling

    def tick(self, wav: Tensor, state: DuplexState, controls: Controls | None) -> StepOut:
        heard: list[Tensor] = []

        def listen(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
            heard.append(logits[:, -1].argmax(dim=-1))

        hook = self.spelling.head.register_forward_hook(listen)
        try:
            out = super().tick(wav, state, controls)
        finally:
            hook.remove()
        out.text[LETTER_STREAM] = heard[0]
        return out


def spelled(classes: Iterable[int], pieces: Sequence[str] = LETTERS) -> str:
    """The text of classes, one per step: what is repeated counts once, class 0 is nothing and parts repetitions."""
    letters, last = [], 0
    for each in classes:
        if each not in (0, last):
            letters.append(pieces[each - 1])
        last = each
    return " ".join("".join(letters).split())
