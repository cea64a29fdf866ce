"""Speed: how long a step takes, which part of it, and how that compares with reading its weights from memory."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s2s.checkpoint import Bundle, Speed
from s2s.engine.warmup import new_input
from s2s.evaluation.bandwidth import finish, read_bandwidth, torch_threads
from s2s.evaluation.statistics import summarise
from s2s.models.graphed import OFTEN
from s2s.models.step import DuplexState, DuplexStep, Step
from s2s.models.traced import Values, controls_of, frozen, live_step, values_of
from s2s.nn.sampling import Controls
from s2s.nn.transformer import TransformerConfig

_WARM_UP = OFTEN + 1  # on a GPU the last of them makes the graph
_TRIAL_STEPS = 40
_GAIN = 0.95  # more threads must save at least a twentieth to be worth a core that another call could use

Part = tuple[str, Callable[[Values, DuplexState], Values]]


@dataclass(frozen=True)
class BenchConfig:
    """What to measure: number of conversations in one batch, steps, threads (None: the better of 1 and 2)."""

    rows: int = 1
    steps: int = 200
    threads: int | None = None
    speed: Speed = "exact"

    def __post_init__(self) -> None:
        for name in ("rows", "steps", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, allowed is 1 and above")


def bench_step(bundle: Bundle, config: BenchConfig) -> dict[str, Any]:
    """Return times per step and part, parameters, and bytes read against the machine's bandwidth, ready for JSON."""
    step = bundle.step(config.speed)
    wav = noise_frames(step, config)
    controls = bundle.controls(config.rows)
    frame_ms = float(1000 / bundle.codec.spec.frame_rate)
    chosen, why = choose_threads(step, wav, controls, config.threads)
    place = str(bundle.device)
    with torch_threads(chosen):
        wall, cpu = time_steps(step, wav, controls)
        parts = time_parts(bundle, config, wav, controls)
    assert bundle.model is not None
    num_bytes = step_bytes(bundle, config)
    bandwidth = read_bandwidth(chosen, device=place)
    summary = summarise(wall)
    achieved = num_bytes["total"] / (summary["p50"] / 1000) / 1e9
    return {
        "speed": config.speed,
        "rows": config.rows,
        "device": torch.cuda.get_device_name() if bundle.device.type == "cuda" else place,
        "frame_ms": frame_ms,
        "step_ms": summary,
        "step_cpu_ms": summarise(cpu),
        "rtf": summary["p50"] / frame_ms,
        "rtfx": frame_ms / summary["p50"],
        "rtfx_p99": frame_ms / summary["p99"],
        "deadline_misses": sum(value > frame_ms for value in wall),
        "parts_ms": parts,
        "parameters": {"codec": _count(bundle.codec), "model": _count(bundle.model)},
        "bytes_per_step": num_bytes,
        "achieved_gb_per_s": achieved,
        "read_bandwidth": bandwidth,
        "bandwidth_share": achieved / bandwidth["read_gb_per_s"],
        "threads": chosen,
        "threads_why": why,
    }


def noise_frames(step: Step, config: BenchConfig) -> list[Tensor]:
    """Quiet noise, a frame per step [B, 1, step_size]: what is said does not change the work."""
    generator, like = torch.Generator().manual_seed(0), new_input(step, step.init_state(1), 1)
    shape = (config.rows, 1, step.step_size)
    return [(0.1 * torch.randn(shape, generator=generator)).to(like) for _ in range(config.steps)]


def time_steps(step: Step, wav: Sequence[Tensor], controls: Controls) -> tuple[list[float], list[float]]:
    """Wall and processor milliseconds of every step after a few that do not count."""
    state = step.init_state(len(wav[0]))
    wall, cpu = [], []
    for frame in [*wav[:_WARM_UP], *wav]:
        start, start_cpu = time.perf_counter(), time.process_time()
        step(frame, state, controls)
        finish(frame.device)
        wall.append((time.perf_counter() - start) * 1000)
        cpu.append((time.process_time() - start_cpu) * 1000)
    skipped = len(wall) - len(wav)
    return wall[skipped:], cpu[skipped:]


def choose_threads(step: Step, wav: Sequence[Tensor], controls: Controls, asked: int | None) -> tuple[int, str]:
    """The number of threads to run with, and why: what was asked for, or the better of 1 and 2 in a short trial."""
    if asked is not None:
        return asked, "asked for"
    if wav[0].is_cuda:
        return 1, "the GPU computes"
    medians = {}
    for threads in (1, 2):
        with torch_threads(threads):
            medians[threads] = summarise(time_steps(step, wav[:_TRIAL_STEPS], controls)[0])["p50"]
    best = 2 if medians[2] < _GAIN * medians[1] else 1
    times = ", ".join(f"{threads}: {value:.2f} ms" for threads, value in medians.items())
    return best, f"p50 of {min(_TRIAL_STEPS, len(wav))} steps by threads: {times}"


def step_parts(step: DuplexStep) -> list[Part]:
    """The parts of a tick in order; each takes what those before it gave."""

    def said(values: Values) -> Values:
        return {stream.name: values[stream.name] for stream in step.model.layout.side("speak")}

    def draws(values: Values, state: DuplexState) -> Tensor:
        return step.draws(state, controls_of(values))

    audio, speaker = step.audio_stream.name, "depth" if step.model.talker is None else "talker"
    return [
        ("encode", lambda v, s: {"codes": step.codec.encode(v["wav"], s.encoder)[..., 0]}),
        ("ring", lambda v, s: {"inputs": step.ring.read(s.ring, {"user": v["codes"]})}),
        ("backbone", lambda v, s: {"hidden": step.think(v["inputs"], s)}),
        ("text", lambda v, s: step.say_text(v["hidden"], s, controls_of(v), draws(v, s))),
        (speaker, lambda v, s: {"voice": step.voice(v["inputs"], v["hidden"], v, s)}),
        ("depth", lambda v, s: {audio: step.say_audio(v["voice"], s, controls_of(v), draws(v, s))}),
        ("ring", lambda v, s: {"frame": step.ring.write(s.ring, said(v))[audio]}),
        ("decode", lambda v, s: {"out": step.speak(v["frame"], s)}),
    ]


def time_parts(bundle: Bundle, config: BenchConfig, wav: Sequence[Tensor], controls: Controls) -> dict[str, Any]:
    """Milliseconds of every part, measured one after the other in whole steps; traced ones as a graph each."""
    step = bundle.step()
    assert isinstance(step, DuplexStep)
    # On a GPU the parts are launched one by one, which takes longer than all of them in one graph.
    traced = config.speed != "exact" and bundle.device.type == "cpu"
    if traced:
        step = live_step(step, config.speed == "int8")
    state = step.init_state(config.rows)
    values: Values = {"wav": wav[0]} | values_of(controls)
    parts = step_parts(step)
    with torch.no_grad():
        for number, (name, work) in enumerate(parts):
            made = work(dict(values), state)
            if traced:
                parts[number] = name, frozen(step, work, values, state)
            values |= made
    times: dict[str, list[float]] = {name: [] for name, _ in parts}
    with torch.inference_mode():
        for frame in [*wav[:_WARM_UP], *wav]:
            spent = dict.fromkeys(times, 0.0)
            values = {"wav": frame} | values_of(controls)
            for name, work in parts:
                start = time.perf_counter()
                values |= work(values, state)
                finish(frame.device)
                spent[name] += (time.perf_counter() - start) * 1000
            for name, value in spent.items():
                times[name].append(value)
    return {name: summarise(found[-len(wav) :]) for name, found in times.items()}


def step_bytes(bundle: Bundle, config: BenchConfig) -> dict[str, int]:
    """Bytes that one step has to read at least: every weight once, the rows of tables it looks up, keys and values.

    The layers of the depth transformer are read once per codebook, from a cache where they fit into one: `again` counts
    these further readings and is not part of the total.
    """
    model = bundle.model
    assert model is not None and model.depth is not None
    wide = 1 if config.speed == "int8" and bundle.device.type == "cpu" else 4
    codec = sum(_weight_bytes(part, wide) for part in (bundle.codec.encoder, bundle.codec.decoder))
    codec += 4 * bundle.codec.quantizer.codebooks.numel()
    depth = model.depth
    layers = _weight_bytes(depth.layers, wide)
    weights = _weight_bytes(model, wide)
    talker = model.config.talker
    cache = config.rows * (_cache_bytes(model.config.backbone) + (0 if talker is None else _cache_bytes(talker)))
    again = 0 if depth.config.per_step_weights else (depth.num_codebooks - 1) * layers
    return {
        "codec_weights": codec,
        "model_weights": weights,
        "keys_and_values": cache,
        "total": codec + weights + cache,
        "again": again,
    }


def _weight_bytes(module: nn.Module, wide: int) -> int:
    """Bytes of the weights of a module without its lookup tables; matrices of `wide` bytes per weight."""
    tables = {id(table.weight) for table in module.modules() if isinstance(table, nn.Embedding)}
    return sum(p.numel() * (wide if p.dim() >= 2 else 4) for p in module.parameters() if id(p) not in tables)


def _cache_bytes(config: TransformerConfig) -> int:
    heads, head_dim = config.num_kv_heads, config.width // config.num_heads
    return 2 * 4 * config.num_layers * config.window * heads * head_dim


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def perturbed_run(step: DuplexStep, num_steps: int, seed: int = 0) -> Callable[[int | None], Tensor]:
    """For `latency.perturb_step`: play noise through a step, greedily, with one first-codebook token replaced."""
    generator = torch.Generator().manual_seed(seed)
    frames = [0.1 * torch.randn(1, 1, step.step_size, generator=generator) for _ in range(num_steps)]
    audio, controls = step.audio_stream, Controls.uniform(1)

    @torch.inference_mode()
    def run(changed: int | None) -> Tensor:
        state = step.init_state(1)
        outputs = []
        for number, frame in enumerate(frames):
            codes = step.codec.encode(frame, state.encoder)[..., 0]
            said = step.predict(step.ring.read(state.ring, {"user": codes}), state, controls)
            if number == changed:
                said[audio.name] = said[audio.name].clone()
                said[audio.name][:, 0] = (said[audio.name][:, 0] + audio.vocab_size // 2) % audio.vocab_size
            outputs.append(step.speak(step.ring.write(state.ring, said)[audio.name], state))
        return torch.cat(outputs, dim=-1)

    return run
