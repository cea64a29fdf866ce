"""Desk evaluation: a support desk is called on every condition, every call is judged, and a folder tells the result."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from s2s.audio.pcm import int16_to_float
from s2s.checkpoint import Bundle, Speed, find, load, random_bundle
from s2s.config import config_hash, to_dict
from s2s.data.augment import speech_rms
from s2s.data.clips import expand, load_clips
from s2s.data.desk import Desk, load_desk
from s2s.data.recordings import read_recordings
from s2s.data.utterances import Callers
from s2s.evaluation.audibility import audible_spans
from s2s.evaluation.caller_script import Plan, Recording, Script, ScriptMaterial, ScriptWriter
from s2s.evaluation.desk_conditions import CALLS, Condition, all_conditions
from s2s.evaluation.desk_measures import measure, ratios
from s2s.evaluation.desk_pages import model_card, report_section
from s2s.evaluation.given_texts import desk_texts, say_texts
from s2s.evaluation.judged_call import JudgedCall, Words, judge, words_of
from s2s.evaluation.line import Line, LineConfig
from s2s.evaluation.live_calls import LiveCall, live_calls
from s2s.evaluation.manifest import manifest
from s2s.evaluation.naturalness import Naturalness
from s2s.evaluation.plots import draw_histogram, draw_intervals
from s2s.evaluation.reactive_caller import ReactiveCaller
from s2s.evaluation.recognise import Recogniser, Size
from s2s.evaluation.speak import SpeakConfig
from s2s.evaluation.statistics import mean_interval
from s2s.evaluation.timeline import draw_timeline, write_stereo
from s2s.models.step import Step
from s2s.phrases import DIGIT_WORDS

log = logging.getLogger(__name__)

# Of these plans the first call of a condition is kept to be listened to, and for some conditions drawn.
SAMPLED: tuple[Plan, ...] = ("talk", "barge_in", "backchannel", "silence", "ladder", "digits", "accent")
DRAWN = ("clean", "unheard")
LATENCY_LIMIT_MS = 500.0
SPOKEN = "spoken"  # the name, among those of conditions, of the texts that are given to the model to say
# Naturalness varies little: so many replies of a condition tell it.
_MOS_REPLIES = 40
_VOICE_CLIPS = 24
_SPEECH_LEVEL = 0.05


@dataclass(frozen=True)
class DeskEvaluation:
    """What to evaluate, with what, and how much of it.

    callers, heldout, noise: globs of tables of clips: of voices that were trained on, of voices kept for tests, of
    noises; digits: a table of single digits said by people, named by its column `text`; accents: a table of sentences
    (`text`, those whose `split` is "test"); agent: the agent's own clips, whose naturalness is the limit. What is empty
    is left out of the report, and with it the conditions that need it. count: calls of a whole evaluation, the clean
    one; the other conditions have fewer. conditions: their names, by default all that are reported. read_backs: numbers
    that the model is given to say as text, with every reply of the desk; 0: it is given none. cache: a folder for
    decoded audio.
    phrases: whether the agent writes the phrases of its checkpoint alone, where that has some.
    """

    desk: str
    callers: tuple[str, ...]
    model: str = "support_desk"
    heldout: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    digits: str = ""
    accents: str = ""
    agent: str = ""
    folder: str = "runs/evaluation"
    cache: str = "runs/evaluation/cache"
    conditions: tuple[str, ...] = ()
    count: int = CALLS
    read_backs: int = 20
    rows: int = 16
    seed: int = 0
    temperature: float | None = None
    speed: Speed | None = None
    phrases: bool = True
    recogniser: Literal["base", "tiny"] = "base"
    naturalness: bool = True
    samples: bool = True
    workers: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least in {"count": 1, "read_backs": 0, "rows": 1, "workers": 1, "threads": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed is {least} and above")
        known = all_conditions()
        for name in self.conditions:
            if name not in known:
                raise ValueError(f"conditions has {name!r}, allowed are {', '.join(known)}")

    def chosen(self) -> tuple[list[Condition], dict[str, str]]:
        """The conditions to try, and why others cannot be."""
        asked = self.conditions or tuple(name for name, c in all_conditions().items() if c.reported)
        wanted = [condition for name, condition in all_conditions().items() if name in asked]
        reasons = {condition.name: self._lacks(condition) for condition in wanted}
        return [c for c in wanted if not reasons[c.name]], {name: reason for name, reason in reasons.items() if reason}

    def _lacks(self, condition: Condition) -> str:
        if condition.voices == "heldout" and not self.heldout:
            return "no clips of unheard voices were given (heldout)"
        if "digits" in condition.plans and not self.digits:
            return "no recordings of digits were given (digits)"
        if "accents" in condition.name and not self.accents:
            return "no recordings of accents were given (accents)"
        return ""


@dataclass(frozen=True)
class PlayedCall:
    """A call with all that is known of it."""

    script: Script
    call: LiveCall[ReactiveCaller]
    words: Words
    judged: JudgedCall


def evaluate_desk(config: DeskEvaluation, command: str) -> dict[str, Any]:
    """Run all conditions, and write calls, recordings, pictures and report.json to the folder; return the report.

    Raises ValueError for anything that is missing, before any call.
    """
    began, folder = time.monotonic(), Path(config.folder)
    conditions, left_out = config.chosen()
    if not conditions:
        raise ValueError(f"there is nothing to evaluate: {left_out}")
    _check(config)
    folder.mkdir(parents=True, exist_ok=True)
    measured = dict(_run(config, conditions))
    clean = measured.get("clean")
    result: dict[str, Any] = {
        "manifest": manifest(
            command, weights=weights_hash(config.model), config_hash=config_hash(config), seed=config.seed,
            threads=config.threads, workers=config.workers, recogniser=f"whisper-{config.recogniser}",
            seconds=round(time.monotonic() - began, 1),
        ),
        "config": to_dict(config),
        "agent_recordings_mos": _voice_mos(config),
        "spoken": measured.get(SPOKEN),
        "conditions": {},
        "left_out": left_out,
    }  # fmt: skip
    for condition in conditions:
        found = {"title": condition.title} | measured[condition.name]
        if clean is not None and condition.name != "clean":
            found["ratio_to_clean"] = ratios(measured[condition.name], clean)
        result["conditions"][condition.name] = found
    result["manifest"]["seconds"] = round(time.monotonic() - began, 1)
    (folder / "report.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_pages(result, folder)
    _draw(result, folder)
    return result


def write_pages(report: dict[str, Any], folder: Path) -> None:
    """Write report.md, a section for a README, and MODEL_CARD.md from the values of a report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(report_section(report), encoding="utf-8")
    (folder / "MODEL_CARD.md").write_text(model_card(report), encoding="utf-8")


def _draw(report: dict[str, Any], folder: Path) -> None:
    conditions = report["conditions"]
    success = {found["title"]: found["success"]["all_turns"] for found in conditions.values()}
    draw_intervals(folder / "success.png", success, "replies right, %, with 95 % intervals", "Success by condition")
    for name in DRAWN:
        if gaps := conditions.get(name, {}).get("latency_ms", {}).get("values"):
            title = f"Last caller sound to first agent sound: {conditions[name]['title']} (n {len(gaps)})"
            draw_histogram(folder / f"latency-{name}.png", gaps, "ms", title, range(-200, 1240, 40), LATENCY_LIMIT_MS)


def _check(config: DeskEvaluation) -> None:
    load_desk(config.desk)
    for patterns in (config.callers, config.heldout, config.noise):
        expand(patterns)
    for path in (config.digits, config.accents, config.agent):
        if path and not Path(path).is_file():
            raise ValueError(f"{path}: no such file")
    if config.model != "random":
        find(config.model)


def _run(config: DeskEvaluation, conditions: Sequence[Condition]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each condition's name and measures, as they are finished; in processes of their own for several workers."""
    # Longest first, so that none is left to the end.
    ordered = sorted(conditions, key=lambda condition: -sum(condition.counts(config.count).values()))
    work: list[tuple[str, Callable[[], dict[str, Any]]]]
    work = [(condition.name, functools.partial(run_condition, config, condition)) for condition in ordered]
    if config.read_backs:
        work.append((SPOKEN, functools.partial(run_spoken, config)))
    if config.workers == 1:
        for name, run in work:
            yield name, run()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.workers, context) as pool:
        running = {pool.submit(run): name for name, run in work}
        for done in as_completed(running):
            log.info("%s: done", running[done])
            yield running[done], done.result()


def run_condition(config: DeskEvaluation, condition: Condition) -> dict[str, Any]:
    """Play and judge the calls of one condition, write them to the folder, and return its measures."""
    torch.set_num_threads(config.threads)
    tools, began = _tools(config), time.monotonic()
    bundle = tools.bundle
    scripts = write_scripts(tools.material(condition), condition.counts(config.count), config.seed)
    temperature = bundle.defaults.temperature if config.temperature is None else config.temperature
    played = play_scripts(tools.step, scripts, condition.line, tools.noises, config.rows, temperature,
                          bundle.defaults.top_k)  # fmt: skip
    folder, judged, scored = Path(config.folder), list[JudgedCall](), 0
    sampled = {next((s.name for s in scripts if s.plan == plan), "") for plan in SAMPLED}
    (folder / "calls").mkdir(parents=True, exist_ok=True)
    with (folder / "calls" / f"{condition.name}.jsonl").open("w", encoding="utf-8") as lines:
        for script, call in played:
            words = words_of(bundle, call)
            judge_of_sound = tools.naturalness if scored < _MOS_REPLIES else None
            judged.append(judge(script, call, words, tools.recogniser, judge_of_sound, tools.texts))
            scored += sum(reply.mos is not None for reply in judged[-1].replies)
            lines.write(json.dumps(asdict(judged[-1])) + "\n")
            lines.flush()
            if config.samples and script.name in sampled:
                _keep(folder / "samples", condition, PlayedCall(script, call, words, judged[-1]))
            log.info("%s: %d of %d calls", condition.name, len(judged), len(scripts))
    known = bool(bundle.tokenizer is not None and bundle.tokenizer.actions)
    # The order of the calls' ends is no matter, but the same numbers should come out in the same order.
    judged.sort(key=lambda call: call.name)
    return measure(judged, known) | {"seconds": round(time.monotonic() - began, 1)}


def run_spoken(config: DeskEvaluation) -> dict[str, Any]:
    """Let the model say every reply of the desk as a given text, and return its measures."""
    torch.set_num_threads(config.threads)
    tools = _tools(config)
    speaking = SpeakConfig(config.temperature, seed=config.seed, speed=config.speed)
    texts = desk_texts(tools.desk, config.read_backs, config.seed)
    return say_texts(tools.bundle, texts, tools.recogniser, tools.naturalness, speaking)


def write_scripts(material: ScriptMaterial, counts: Mapping[Plan, int], seed: int) -> list[Script]:
    """The scripts of a condition: the same calls on every line, whatever it does to them."""
    writer = ScriptWriter(material)
    return [writer.write(plan, index, seed) for plan, count in counts.items() for index in range(count)]


def play_scripts(
    step: Step,
    scripts: Sequence[Script],
    line: LineConfig,
    noises: Sequence[np.ndarray] = (),
    rows: int = 1,
    temperature: float = 0.0,
    top_k: int = 50,
) -> Iterator[tuple[Script, LiveCall[ReactiveCaller]]]:
    """Let the callers of these scripts talk to the step; calls come as they end."""
    by_caller: dict[int, Script] = {}

    def callers() -> Iterator[ReactiveCaller]:
        for script in scripts:
            caller = _caller(script, line, step.sample_rate, noises)
            by_caller[id(caller)] = script
            yield caller

    for call in live_calls(step, callers(), temperature, top_k, rows):
        yield by_caller.pop(id(call.caller)), call


def _caller(script: Script, config: LineConfig, rate: int, noises: Sequence[np.ndarray]) -> ReactiveCaller:
    moves = [act.move for act in script.acts]
    spoken = next((move.wav for move in moves if len(move.wav)), None)
    level = (speech_rms(spoken) if spoken is not None else 0.0) or _SPEECH_LEVEL
    line = Line(config, rate, level, np.random.default_rng(script.seed), noises)
    return ReactiveCaller(moves, line, rate, script.opening is not None, script.seed)


def _keep(folder: Path, condition: Condition, played: PlayedCall) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    call, name = played.call, f"{condition.name}-{played.script.name}"
    write_stereo(folder / f"{name}.wav", call.heard, call.agent, call.sample_rate)
    if condition.name in DRAWN:
        said = (played.words.caller, played.words.agent)
        title = f"{condition.title}: {played.script.plan.replace('_', ' ')}"
        draw_timeline(folder / f"{name}.png", (call.heard, call.agent), call.sample_rate, said, title=title)


class _Tools:
    """What every condition of one process needs, loaded once."""

    def __init__(self, config: DeskEvaluation):
        self.config = config
        self.bundle: Bundle = random_bundle() if config.model == "random" else load(config.model)
        if not config.phrases:
            self.bundle.phrases = None
        self.step = self.bundle.step(config.speed or self.bundle.defaults.speed)
        size: Size = config.recogniser
        self.recogniser = Recogniser(size, threads=config.threads)
        self.naturalness = Naturalness() if config.naturalness else None
        self.desk, self.rate = load_desk(config.desk), self.bundle.codec.spec.sample_rate
        self.texts = all_texts(self.desk)
        clips = load_clips(expand(config.noise), Path(config.cache), self.rate)
        self.noises = [int16_to_float(np.asarray(clip.pcm)) for clip in clips]
        self._callers: dict[str, Callers] = {}

    def material(self, condition: Condition) -> ScriptMaterial:
        digits = read_digits(self.config.digits, self.rate) if "digits" in condition.plans else {}
        accents = read_accents(self.config.accents, self.rate, condition) if "accent" in condition.plans else []
        callers = self.callers(condition.voices)
        return ScriptMaterial(self.desk, callers, condition.split, self.noises, digits, accents)

    def callers(self, voices: str) -> Callers:
        if voices not in self._callers:
            patterns = self.config.callers if voices == "trained" else self.config.heldout
            clips = load_clips(expand(patterns), Path(self.config.cache), self.rate)
            self._callers[voices] = Callers(clips, self.rate, {clip.digits for clip in clips})
        return self._callers[voices]


def all_texts(desk: Desk) -> list[str]:
    """Every reply of a desk, those with a slot with one number in it."""
    read_backs = [desk.read_back("give_number", "0000"), desk.read_back("give_zip", "00000")]
    return [*desk.fixed_replies().values(), *read_backs]


@functools.lru_cache(maxsize=1)
def _tools(config: DeskEvaluation) -> _Tools:
    return _Tools(config)


def read_digits(path: str, rate: int) -> dict[str, np.ndarray]:
    """Recordings of the ten digits, cut to what is audible, by digit; ValueError where one is missing."""
    found: dict[str, np.ndarray] = {}
    for row, wav in read_recordings(path, rate, {"text": DIGIT_WORDS}):
        digit = str(DIGIT_WORDS.index(row["text"]))
        spans = audible_spans(wav, rate)
        if spans and digit not in found:
            found[digit] = wav[spans[0].start : spans[-1].end]
    if missing := sorted(set("0123456789") - set(found)):
        raise ValueError(f"{path}: no recordings of the digits {missing}")
    return found


def read_accents(path: str, rate: int, condition: Condition) -> list[Recording]:
    """Sentences of the table's test split, evenly over it and so over its speakers."""
    rows = read_recordings(path, rate, {"split": ["test"]}, condition.plans["accent"])
    return [Recording(wav, row["text"], str(row.get("gender", ""))) for row, wav in rows]


def _voice_mos(config: DeskEvaluation) -> dict[str, Any] | None:
    """Naturalness of recordings of the agent's own voice; None without them."""
    if not (config.agent and config.naturalness):
        return None
    rate = 24000
    wavs = [wav for _, wav in read_recordings(config.agent, rate, {}, _VOICE_CLIPS)]
    return mean_interval(Naturalness().score(wavs, rate))


def weights_hash(model: str) -> str:
    """The first 16 hex digits of the sha256 of a checkpoint's files, in the order of their names."""
    if model == "random":
        return "random"
    found = hashlib.sha256()
    for path in sorted(find(model).iterdir()):
        if path.suffix in (".safetensors", ".json"):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]
