"""Data of the toy: clips of tones for the codec, encoded dialogues for the model, and at the end something to hear.

python recipes/toy_echo/prepare.py audio  --out runs/toy
python recipes/toy_echo/prepare.py encode --out runs/toy --codec runs/toy_codec
python recipes/toy_echo/prepare.py listen --out runs/toy --codec runs/toy_codec --model runs/toy_echo
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf
import torch

from s2s.audio.io import write_wav
from s2s.checkpoint import Bundle, save
from s2s.data.encode import EncodeConfig, Encoder, encode_dialogues
from s2s.data.schema import Dialogue
from s2s.data.synthetic import TONES, ToyEchoConfig, ToyEchoSource
from s2s.nn.sampling import Controls
from s2s.text import ByteTokenizer
from s2s.train.checkpoints import load_codec, load_duplex, newest_loadable
from s2s.train.samples import respond

TRAIN_SEED, TEST_SEED = 0, 1
HISS, DRIVE = 0.002, 30.0


class Buzzing(ToyEchoSource):
    """The tones as a reed would play them, with overtones, over a soft hiss.

    Pure tones in digital silence are the one thing that losses for speech cannot teach: a bin or two among hundreds.
    """

    def __getitem__(self, index: int) -> Dialogue:
        dialogue = super().__getitem__(index)
        rng = np.random.default_rng((index, TRAIN_SEED))
        for track in (dialogue.user, dialogue.agent):
            track[:] = 0.2 * np.tanh(DRIVE * track) + HISS * rng.standard_normal(track.size, dtype=np.float32)
        return dialogue


def dialogues(count: int, seed: int) -> ToyEchoSource:
    return Buzzing(ToyEchoConfig(num_dialogues=count, max_sequence=2, max_pause_s=0.3, seed=seed))


def make_audio(out: Path, count: int) -> None:
    """Every dialogue as one clip in audio.parquet, both speakers in it, so that there is little but tones."""
    clips = []
    for dialogue in (dialogues(count, TRAIN_SEED)[index] for index in range(count)):
        file = io.BytesIO()
        sf.write(file, dialogue.user + dialogue.agent, dialogue.sample_rate, format="WAV")
        clips.append(file.getvalue())
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"audio": clips}), out / "audio.parquet")


def encode(out: Path, codec: Path, count: int) -> None:
    """Dialogues as shards of codes and aligned words."""
    encoder = Encoder(load_codec(newest(codec)), ByteTokenizer(), EncodeConfig(rows_per_shard=128))
    encode_dialogues(dialogues(count, TRAIN_SEED), encoder, out / "shards")


def listen(out: Path, codec: Path, model: Path, count: int) -> dict[str, float]:
    """Export the model, let it answer new callers live, write answer-*.wav (caller left, agent right), count tones."""
    bundle = Bundle(load_codec(newest(codec)), load_duplex(newest(model)), ByteTokenizer())
    save(bundle, out / "model")
    calls = [dialogues(count, TEST_SEED)[index] for index in range(count)]
    step = bundle.step()
    size = len(calls[0].user) // step.step_size * step.step_size
    caller = torch.from_numpy(np.stack([call.user[:size] for call in calls]))[:, None]
    agent, _ = respond(step, caller, Controls.uniform(count))
    for row in range(min(3, count)):
        write_wav(out / f"answer-{row}.wav", np.stack([caller[row, 0].numpy(), agent[row, 0].numpy()]), 24000)
    right = sum(tones_right(call, wav[0].numpy()) for call, wav in zip(calls, agent, strict=True))
    said = sum(len(call.agent_words) for call in calls)
    return {"tones": said, "right": right, "share_right": round(right / said, 3)}


def tones_right(call: Dialogue, agent: np.ndarray) -> int:
    """How many of the agent's tones sound where they belong, a step early or late included."""
    right = 0
    for word in call.agent_words:
        middle = int((word.start_s + word.end_s) / 2 * call.sample_rate)
        piece = agent[max(0, middle - 1920) : middle + 1920]
        right += pitch_name(piece, call.sample_rate) == word.text and float(np.sqrt(np.mean(piece**2))) > 0.03
    return right


def pitch_name(wav: np.ndarray, sample_rate: int) -> str:
    """The tone whose first overtones, which are the odd ones, hold the most energy (in dB) in wav [N]."""
    size = 1 << 15
    spectrum = np.abs(np.fft.rfft(wav * np.hanning(len(wav)), n=size))

    def level(pitch: float) -> float:
        bins = [round(pitch * overtone * size / sample_rate) for overtone in (1, 3, 5)]
        # Thirty bins are 22 Hz: the codec plays the nearest pitch that its hops allow.
        return sum(float(np.log(1e-3 + spectrum[at - 30 : at + 31].max())) for at in bins)

    return max(TONES, key=lambda name: level(TONES[name]))


def newest(run: Path) -> Path:
    path = newest_loadable(run / "checkpoints")
    if path is None:
        raise SystemExit(f"no checkpoint below {run}: run the stage before first")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["audio", "encode", "listen"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--count", type=int, default=0, help="dialogues; 0 = as many as the recipe wants")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stage == "audio":
        make_audio(arguments.out, arguments.count or 64)
    elif arguments.stage == "encode":
        encode(arguments.out, arguments.codec, arguments.count or 512)
    else:
        print(json.dumps(listen(arguments.out, arguments.codec, arguments.model, arguments.count or 16)))


if __name__ == "__main__":
    main()
