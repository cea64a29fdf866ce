"""Given texts: the model as a voice alone, asked to say everything that a desk says; a recogniser listens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from s2s.checkpoint import Bundle
from s2s.data.desk import Desk, speak_digits
from s2s.evaluation.audibility import Span
from s2s.evaluation.naturalness import Naturalness
from s2s.evaluation.recognise import Hears
from s2s.evaluation.replies import ExpectedReply, score_text
from s2s.evaluation.speak import SpeakConfig, speak, speaking_step
from s2s.evaluation.statistics import mean_interval, proportion
from s2s.evaluation.word_errors import word_error_rate

_NOBODY = Span(0, 0)


def desk_texts(desk: Desk, read_backs: int, seed: int) -> list[ExpectedReply]:
    """Every fixed reply once, and `read_backs` numbers and zip codes in turn, drawn by `seed`."""
    rng = random.Random(f"given texts {seed}")
    texts = [ExpectedReply(_NOBODY, text) for text in dict.fromkeys(desk.fixed_replies().values())]
    for index in range(read_backs):
        key, length = (("give_number", 4), ("give_zip", 5))[index % 2]
        digits = "".join(rng.choices("0123456789", k=length))
        texts.append(ExpectedReply(_NOBODY, desk.read_back(key, digits), (speak_digits(digits),)))
    return texts


def say_texts(
    bundle: Bundle,
    texts: Sequence[ExpectedReply],
    recogniser: Hears,
    naturalness: Naturalness | None = None,
    config: SpeakConfig | None = None,
) -> dict[str, Any]:
    """Say each text, and report how much of it is heard, ready for JSON.

    said: at most 20 % word errors and every slot exact; whole: numbers whose digits are all right, of those read back;
    pushed: words that the model did not ask for in time.
    """
    config, rate = config or SpeakConfig(), bundle.codec.spec.sample_rate
    step = speaking_step(bundle, config)
    spoken = [speak(bundle, expected.text, config, step) for expected in texts]
    heard = [recogniser.transcribe(said.agent, rate, word_times=False).text for said in spoken]
    scores = [score_text(expected, text) for expected, text in zip(texts, heard, strict=True)]
    numbers = [score for score in scores if score.expected.slots]
    words = sum(len(expected.text.split()) for expected in texts)
    mos = naturalness.score([said.agent for said in spoken], rate) if naturalness is not None else []
    return {
        "texts": len(texts),
        "said": proportion(sum(score.success for score in scores), len(scores)),
        "whole": proportion(sum(score.slots_exact for score in numbers), len(numbers)),
        "word_errors": word_error_rate([expected.text for expected in texts], heard),
        "pushed": proportion(sum(said.pushed for said in spoken), words),
        "mos": mean_interval(mos),
        "heard": [{"text": expected.text, "heard": text} for expected, text in zip(texts, heard, strict=True)],
    }
