"""The agent's voice with the times of its words: hibari-tts and its plan of phonemes. A part of prepare.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2s.data.schema import Word

# Inside hibari's network: when each phoneme ends, in units of two of its frames of 300 samples.
PHONEME_ENDS = "/CumSum_output_0"
UNIT_S = 600 / 24000


class TimedVoice:
    """hibari-tts, which plans how long each phoneme takes, so that the times of words need not be guessed."""

    def __init__(self) -> None:
        import onnx
        import onnxruntime
        from hibari import Hibari

        self.tts = Hibari(threads=1)
        network = onnx.load(self.tts.model_path)
        network.graph.output.append(onnx.helper.make_tensor_value_info(PHONEME_ENDS, onnx.TensorProto.INT64, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.tts.sess = _Listener(
            onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
        )

    def split_sentences(self, text: str) -> list[str]:
        found: list[str] = self.tts.split_sentences(text)
        return found

    def __call__(self, text: str, speed: float, seed: int) -> tuple[np.ndarray, list[Word]]:
        """One sentence -> wav [N] at 24 kHz and its words with times [s].

        Raises ValueError where the voice does not say as many words as the text has, so that none can be told apart.
        """
        (phonemes,) = self.tts.phonemize(text)
        wav = np.asarray(self.tts.from_phonemes(phonemes, speed=speed, seed=seed), np.float32)
        times = word_times([c for c in phonemes if c in self.tts.vocab], self.tts.sess.ends)
        words = text.split()
        if len(words) != len(times):
            raise ValueError(f"{text!r} is {len(words)} words but is said as {len(times)}: {phonemes}")
        return wav, [Word(word, start, end) for word, (start, end) in zip(words, times, strict=True)]


class _Listener:
    """A network that gives what it gave, and keeps its last output, the ends of the phonemes."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.ends = np.zeros(0, np.int64)

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        *outputs, ends = self.session.run(names, inputs)
        self.ends = np.ravel(ends)
        return outputs


def word_times(phonemes: list[str], ends: np.ndarray) -> list[tuple[float, float]]:
    """(start, end) [s] of the words of phonemes between spaces; ends [P + 2] holds those of the pads around them too.

    A word begins where the one before it ends: in the space between them its first sound is on its way.
    """
    times: list[tuple[float, float]] = []
    begin = float(ends[0])
    for number, phoneme in enumerate(phonemes):
        last = number + 1 == len(phonemes) or phonemes[number + 1] == " "
        if phoneme != " " and last:
            end = float(ends[number + 1])
            times.append((begin * UNIT_S, end * UNIT_S))
            begin = end
    return times
