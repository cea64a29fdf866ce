"""Tables of noise bursts that stand for the clips of a support desk, made in well under a second."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from s2s.data.compose import ComposeConfig
from s2s.data.desk import load_desk, speak_digits

RATE = 24000
DESK = Path(__file__).parents[2] / "recipes" / "support_desk" / "desk.yaml"
NUMBERS = ("4271", "0998", "7005", "3356", "8123")


def burst(seconds: float, seed: int, lead_s: float = 0.0, tail_s: float = 0.0) -> bytes:
    rng = np.random.default_rng(seed)
    speech = rng.uniform(-0.3, 0.3, round(seconds * RATE))
    wav = np.concatenate([np.zeros(round(lead_s * RATE)), speech, np.zeros(round(tail_s * RATE))])
    data = io.BytesIO()
    sf.write(data, wav, RATE, format="FLAC", subtype="PCM_16")
    return data.getvalue()


def write_tables(folder: Path) -> ComposeConfig:
    """Agent and caller tables in `folder`, and the config that composes from them, without augmentation."""
    desk = load_desk(DESK)
    fixed = [(key, "", text) for key, text in desk.fixed_replies().items()]
    numbers = [("give_number", digits, desk.read_back("give_number", digits)) for digits in NUMBERS]
    numbers.append(("give_zip", "90210", desk.read_back("give_zip", "90210")))
    agent = []
    for seed, (key, digits, text) in enumerate(fixed + numbers):
        seconds = 0.25 * len(text.split())
        agent.append(
            {"kind": "number" if digits else "fixed", "key": key, "digits": digits, "text": text,
             "audio": burst(seconds, seed, 0.02, 0.06), "speech_start": 0.02, "speech_end": 0.02 + seconds,
             "words": json.dumps([(w, 0.02 + i * 0.25, 0.27 + i * 0.25) for i, w in enumerate(text.split())])}
        )  # fmt: skip
    intents = {*desk.intents, "_filler_unclear", "_backchannel"} - {"give_number", "give_zip"}
    callers = [
        caller(f"please tell me about {name.replace('_', ' ')} in the {place}", name, seed)
        for seed, name in enumerate(sorted(intents))
        for place in ("morning, now", "evening, then", "garden", "house of mine", "big city", "blue sea")
    ]
    callers += [
        caller(f"{carrier} {speak_digits(number)}", intent, 90, number)
        for number in (*NUMBERS, "5555")
        for intent in ("give_number", "track_with_number")
        for carrier in ("find", "it is", "and now", "you want this")
    ]
    halves = ("I would like to know", "what a parcel costs")
    callers += [caller(halves[part - 1], "price", 91, part=part, pair=halves[2 - part]) for part in (1, 2)]
    pq.write_table(pa.Table.from_pylist(agent), folder / "agent.parquet")
    pq.write_table(pa.Table.from_pylist(callers), folder / "callers_0.parquet")
    return ComposeConfig(
        desk=str(DESK), agent=str(folder / "agent.parquet"), callers=(str(folder / "callers_*.parquet"),),
        cache=str(folder / "cache"), augment=None,
    )  # fmt: skip


def caller(text: str, intent: str, seed: int, digits: str = "", part: int = 0, pair: str = "") -> dict[str, object]:
    return {
        "audio": burst(0.8, seed, 0.05, 0.1), "text": text, "intent": intent, "digits": digits, "voice": "af_x",
        "pitch": 1.0, "tempo": 1.0, "duration": 0.95, "speech_start": 0.05, "speech_end": 0.85, "part": part,
        "pair": pair,
    }  # fmt: skip
