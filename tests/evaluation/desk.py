"""A desk for tests: callers whose clips are tones, a scripted agent, a recogniser that hears what it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from s2s.audio.pcm import float_to_int16
from s2s.data.clips import Clip
from s2s.data.desk import Desk, load_desk
from s2s.data.schema import Word
from s2s.data.utterances import Callers
from s2s.evaluation.caller_script import Script, ScriptMaterial, ScriptWriter
from s2s.evaluation.desk_evaluation import play_scripts
from s2s.evaluation.judged_call import JudgedCall, Words, judge
from s2s.evaluation.line import LineConfig
from s2s.evaluation.recognise import Transcript
from s2s.models.scripted import Script as AgentScript
from s2s.models.scripted import ScriptedStep
from s2s.models.step import Step

RATE = 24000
DESK: Desk = load_desk(Path(__file__).parents[2] / "recipes" / "support_desk" / "desk.yaml")


def tone(seconds: float, hz: float = 300.0, level: float = 0.2) -> np.ndarray:
    at = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hz * at)).astype(np.float32)


def clip(intent: str, text: str, digits: str = "", seconds: float = 1.4) -> Clip:
    """A tone with a silence of 0.1 s in its middle."""
    half = tone(seconds / 2 - 0.05)
    pcm = float_to_int16(np.concatenate([half, np.zeros(round(0.1 * RATE), np.float32), half]))
    words = (Word(text.split()[0], 0.0, seconds / 2), Word(text.split()[-1], seconds / 2, seconds))
    middle = seconds / 2
    return Clip(pcm, text, intent, digits, "am_one", 1.0, 0, "", 0.0, seconds, words, ((middle - 0.05, middle + 0.05),))


def material(**more: object) -> ScriptMaterial:
    """One clip per intent, of a wording of two words, so that it is in every split."""
    digits = {"give_number": "5083", "track_with_number": "5083", "give_zip": "90218"}
    names = [*DESK.intents, "track_with_number", "filler_unclear", "backchannel"]
    clips = [clip(n, f"say {n}", digits.get(n, ""), 0.4 if n == "backchannel" else 1.4) for n in names]
    return ScriptMaterial(DESK, Callers(clips, RATE, set(digits.values())), **more)  # type: ignore[arg-type]


def agent(seconds: float = 3.5, delay_s: float = 0.2, yield_after_s: float | None = None, level: float = 0.2) -> Step:
    """Answers every turn with a tone; level 0: with silence."""
    answer = torch.from_numpy(tone(seconds, 200.0, level))
    return ScriptedStep(AgentScript(answer, delay_s, yield_after_s), 960, RATE)


class Hears:
    """A recogniser that hears these texts, one after the other, the last one again and again."""

    def __init__(self, *texts: str):
        self._texts = list(texts)

    def transcribe(self, wav: np.ndarray, sample_rate: int, word_times: bool = True) -> Transcript:
        text = self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]
        return Transcript(text if float(np.max(np.abs(wav), initial=0.0)) > 0 else "", ())


def script(plan: str, index: int = 0, seed: int = 0, **more: object) -> Script:
    return ScriptWriter(material(**more)).write(plan, index, seed)  # type: ignore[arg-type]


def played(
    written: Script, step: Step, hears: Hears, words: Words | None = None, line: LineConfig | None = None
) -> JudgedCall:
    """The call of a script, judged."""
    ((_, call),) = play_scripts(step, [written], line or LineConfig())
    return judge(written, call, words or Words([], [], []), hears)


def right_texts(written: Script) -> list[str]:
    """What is due in a script, as far as it is judged."""
    texts = [a.reply.text for a in written.acts if a.reply is not None and a.judged]
    return [written.opening.text, *texts] if written.opening and written.opening_judged else texts
