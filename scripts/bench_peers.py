"""Speed beside moshi 0.2.13 on this machine, in one run, with random weights: its language model step, its Mimi codec.

    pip install --no-deps moshi==0.2.13 sphn sentencepiece
    python scripts/bench_peers.py [--threads 1] [--rounds 5] [--json]

Both language models: width 512, 8 layers, 8 heads; depth transformer of width 256, 4 layers, weights of its own for
every codebook; 8 codebooks heard and 8 said, one text stream; 2048 entries per codebook and 32000 of text unless told
otherwise. Codecs stream frame by frame with 8 codebooks. Every contestant takes its turn in every round, so that a busy
machine slows all of them; medians over all rounds. moshi runs as installed; NO_TORCH_COMPILE=1 keeps it from compiling
parts of itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from s2s.codec.base import CodecSpec
from s2s.codec.spectral import SpectralCodec, SpectralCodecConfig
from s2s.evaluation.statistics import summarise
from s2s.models.depth import DepthConfig
from s2s.models.duplex import DuplexConfig, DuplexModel
from s2s.models.step import DuplexState, DuplexStep
from s2s.models.traced import Values, controls_of, frozen, live_step, values_of
from s2s.nn.sampling import Controls
from s2s.nn.transformer import TransformerConfig
from s2s.streams import Stream, StreamLayout

WIDTH, LAYERS, HEADS, WINDOW = 512, 8, 8, 750
DEPTH_WIDTH, DEPTH_LAYERS = 256, 4
CODEBOOKS = 8
# moshi's gated layers have two thirds of 4.125 times the width.
HIDDEN, DEPTH_HIDDEN = 1408, 704

Tick = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """What the two language models share besides their widths."""

    entries: int = 2048
    text_entries: int = 32000


def our_model(shape: Shape) -> DuplexModel:
    delays = (0,) + (1,) * (CODEBOOKS - 1)
    layout = StreamLayout(
        (
            Stream("user", shape.entries, delays, "hear"),
            Stream("agent_text", shape.text_entries, (0,), "speak"),
            Stream("agent", shape.entries, delays, "speak"),
        )
    )
    backbone = TransformerConfig(WIDTH, LAYERS, HEADS, HEADS, HIDDEN, WINDOW)
    depth = DepthConfig(DEPTH_WIDTH, DEPTH_LAYERS, HEADS, DEPTH_HIDDEN, DEPTH_WIDTH, per_step_weights=True)
    return DuplexModel(DuplexConfig(layout, backbone, depth)).eval()


def our_ticks(model: DuplexModel, codec: SpectralCodec) -> dict[str, Tick]:
    """One language model step, tokens in and tokens out, at every speed."""
    exact = DuplexStep(codec, model)
    controls = Controls.uniform(1, temperature=0.8, top_k=250)
    values: Values = {"codes": torch.randint(codec.spec.codebook_size, (1, CODEBOOKS))} | values_of(controls)
    ticks: dict[str, Tick] = {}
    for name in ("exact", "traced", "int8"):
        step = exact if name == "exact" else live_step(exact, name == "int8")

        def work(given: Values, state: DuplexState, step: DuplexStep = step) -> Values:
            said = step.predict(step.ring.read(state.ring, {"user": given["codes"]}), state, controls_of(given))
            return step.ring.write(state.ring, said)

        state = step.init_state(1)
        run = work if name == "exact" else frozen(step, work, values, state)
        ticks[f"s2s LM, {name}"] = lambda run=run, state=state: run(values, state)  # type: ignore[misc]
    return ticks


def moshi_tick(shape: Shape) -> tuple[Tick, int]:
    """One step of moshi's language model, and its number of parameters."""
    from moshi.models import LMGen, LMModel

    delays = [0] + 2 * ([0] + [1] * (CODEBOOKS - 1))
    model = LMModel(
        delays=delays,
        n_q=2 * CODEBOOKS,
        dep_q=CODEBOOKS,
        card=shape.entries,
        text_card=shape.text_entries,
        dim=WIDTH,
        num_heads=HEADS,
        num_layers=LAYERS,
        hidden_scale=4.125,
        norm="rms_norm_f32",
        causal=True,
        context=WINDOW,
        max_period=10000,
        gating="silu",
        positional_embedding="rope",
        depformer_dim=DEPTH_WIDTH,
        depformer_dim_feedforward=int(4.125 * DEPTH_WIDTH),
        depformer_num_heads=HEADS,
        depformer_num_layers=DEPTH_LAYERS,
        depformer_multi_linear=True,
        depformer_weights_per_step=True,
        depformer_context=CODEBOOKS,
        depformer_max_period=10000,
        depformer_gating="silu",
        depformer_pos_emb="none",
        device="cpu",
        dtype=torch.float32,
    ).eval()
    generator = LMGen(model, temp=0.8, temp_text=0.7, top_k=250, top_k_text=25)
    generator.streaming_forever(1)
    codes = torch.randint(shape.entries, (1, CODEBOOKS, 1))
    return lambda: generator.step(codes), sum(p.numel() for p in model.parameters())


def our_codec_ticks(codec: SpectralCodec) -> tuple[dict[str, Tick], float]:
    """One frame each way at every speed, and the seconds of a frame."""
    silence = torch.zeros(CODEBOOKS, dtype=torch.long)
    exact = DuplexStep(codec, our_codec_host(codec.spec), silence)
    values: Values = {
        "wav": 0.1 * torch.randn(1, 1, codec.spec.frame_size),
        "codes": torch.randint(codec.spec.codebook_size, (1, CODEBOOKS)),
    }
    ticks: dict[str, Tick] = {}
    for name in ("exact", "traced", "int8"):
        step = exact if name == "exact" else live_step(exact, name == "int8")
        state = step.init_state(1)

        def encode(given: Values, state: DuplexState, step: DuplexStep = step) -> Values:
            return {"codes": step.codec.encode(given["wav"], state.encoder)[..., 0]}

        def decode(given: Values, state: DuplexState, step: DuplexStep = step) -> Values:
            return {"wav": step.speak(given["codes"], state)}

        for direction, work in (("encode", encode), ("decode", decode)):
            run = work if name == "exact" else frozen(step, work, values, state)
            ticks[f"s2s {direction}, {name}"] = lambda run=run, state=state: run(values, state)  # type: ignore[misc]
    return ticks, float(1 / codec.spec.frame_rate)


def our_codec_host(spec: CodecSpec) -> DuplexModel:
    """The smallest model that a step around this codec can have; it is never run."""
    delays = (0,) * CODEBOOKS
    user, agent = (
        Stream("user", spec.codebook_size, delays, "hear"),
        Stream("agent", spec.codebook_size, delays, "speak"),
    )
    backbone = TransformerConfig(width=16, num_layers=1, num_heads=2, num_kv_heads=2, hidden=16, window=2)
    return DuplexModel(DuplexConfig(StreamLayout((user, agent)), backbone, DepthConfig(16, 1, 2, 16, 8), 8)).eval()


def mimi_ticks() -> tuple[dict[str, Tick], float]:
    from moshi.models.loaders import get_mimi

    mimi = get_mimi(None, device="cpu", num_codebooks=CODEBOOKS)
    mimi.streaming_forever(1)
    wav = 0.1 * torch.randn(1, 1, mimi.frame_size)
    codes = mimi.encode(wav)
    return {
        "Mimi encode": lambda: mimi.encode(wav),
        "Mimi decode": lambda: mimi.decode(codes),
    }, 1 / float(mimi.frame_rate)


@torch.inference_mode()
def race(ticks: dict[str, Tick], rounds: int, per_round: int) -> dict[str, dict[str, Any]]:
    """Wall and processor milliseconds of every contestant, who take turns."""
    wall: dict[str, list[float]] = {name: [] for name in ticks}
    cpu: dict[str, list[float]] = {name: [] for name in ticks}
    for tick in ticks.values():
        for _ in range(3):
            tick()
    for _ in range(rounds):
        for name, tick in ticks.items():
            for _ in range(per_round):
                start, start_cpu = time.perf_counter(), time.process_time()
                tick()
                wall[name].append((time.perf_counter() - start) * 1000)
                cpu[name].append((time.process_time() - start_cpu) * 1000)
    return {name: {"wall_ms": summarise(wall[name]), "cpu_ms": summarise(cpu[name])} for name in ticks}


def measure(shape: Shape, rounds: int, per_round: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = our_model(shape)
    codec = SpectralCodec(SpectralCodecConfig(spec=CodecSpec(codebook_size=shape.entries))).eval()
    peer, peer_parameters = moshi_tick(shape)
    steps = race(our_ticks(model, codec) | {"moshi LM": peer}, rounds, per_round)
    ours, our_frame_s = our_codec_ticks(SpectralCodec(SpectralCodecConfig()).eval())
    mimi, mimi_frame_s = mimi_ticks()
    codecs = race(ours | mimi, rounds, per_round)
    for name, found in codecs.items():
        frame_s = mimi_frame_s if name.startswith("Mimi") else our_frame_s
        found["ms_per_second_of_audio"] = found["wall_ms"]["p50"] / frame_s
        found["cpu_ms_per_second_of_audio"] = found["cpu_ms"]["p50"] / frame_s
    return {
        "shape": asdict(shape),
        "threads": torch.get_num_threads(),
        "parameters": {"s2s": sum(p.numel() for p in model.parameters()), "moshi": peer_parameters},
        "steps": steps,
        "codecs": codecs,
        "times_faster": ratios(steps, codecs),
    }


def ratios(steps: dict[str, Any], codecs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How many times faster ours is, by medians of wall and of processor time."""
    found = {}
    for name, ours in steps.items():
        if name != "moshi LM":
            peer = steps["moshi LM"]
            found[name] = {kind: peer[f"{kind}_ms"]["p50"] / ours[f"{kind}_ms"]["p50"] for kind in ("wall", "cpu")}
    for name, ours in codecs.items():
        if not name.startswith("Mimi"):
            peer = codecs["Mimi encode" if "encode" in name else "Mimi decode"]
            keys = {"wall": "ms_per_second_of_audio", "cpu": "cpu_ms_per_second_of_audio"}
            found[name] = {kind: peer[key] / ours[key] for kind, key in keys.items()}
    return found


def show(result: dict[str, Any]) -> None:
    size = {name: f"{count / 1e6:.0f} M" for name, count in result["parameters"].items()}
    print(f"{result['threads']} thread(s); parameters: s2s {size['s2s']}, moshi {size['moshi']}")
    for name, found in (result["steps"] | result["codecs"]).items():
        line = f"{name:20} wall p50 {found['wall_ms']['p50']:8.2f} ms   processor p50 {found['cpu_ms']['p50']:8.2f} ms"
        if "ms_per_second_of_audio" in found:
            line += f"   {found['ms_per_second_of_audio']:7.1f} ms per second of audio"
        if name in result["times_faster"]:
            faster = result["times_faster"][name]
            line += f"   {faster['wall']:.1f}x faster (by processor time {faster['cpu']:.1f}x)"
        print(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-round", type=int, default=8, help="steps or frames of each contestant in a round")
    parser.add_argument("--entries", type=int, default=Shape.entries, help="of a codebook")
    parser.add_argument("--text-entries", type=int, default=Shape.text_entries)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        import moshi  # noqa: F401
    except ImportError:
        print("bench_peers: pip install --no-deps moshi==0.2.13 sphn sentencepiece", file=sys.stderr)
        return 2
    shape = Shape(arguments.entries, arguments.text_entries)
    result = measure(shape, arguments.rounds, arguments.per_round)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
