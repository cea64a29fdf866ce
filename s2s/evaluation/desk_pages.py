"""Desk pages: a report of the support desk as Markdown, for the recipe's README and for the model's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]

_RULES = {"silence": "asks after six seconds of silence", "silence_again": "and says goodbye after six more",
          "unclear": "asks again after unclear speech", "ladder": "the second time names a colleague",
          "ladder_with_handoff": "and hands off"}  # fmt: skip


def report_section(report: Report) -> str:
    """All conditions and measures of a report."""
    parts = [_conditions(report)]
    main = _main(report)
    if main is not None:
        name, found = main
        parts += [f"**{_capital(found['title'])}**, in detail (brackets: 95 % intervals).", _details(report, found)]
        parts += [f"By intent, {found['title']} (right of all).", _intents(report, name)]
    if accents := report["conditions"].get("human_accents"):
        parts.append(_accents(accents))
    if spoken := report.get("spoken"):
        parts.append(_spoken(spoken))
    if report["left_out"]:
        parts.append("Left out: " + "; ".join(f"{name}: {reason}" for name, reason in report["left_out"].items()) + ".")
    parts.append(_made(report))
    return "\n\n".join(parts) + "\n"


def model_card(report: Report) -> str:
    """MODEL_CARD.md, every figure of it from the report."""
    made = report["manifest"]
    return "\n\n".join(
        [
            f"# Model card: {report['config']['model'].rstrip('/').rsplit('/', 1)[-1]}",
            "A duplex speech-to-speech model that answers the phone of Harbor Parcel, a fictional parcel company. It "
            "listens and speaks at the same time, in English, in one voice; hand-off and hang-up are tokens of its "
            f"text. Weights `{made['weights']}`.",
            "## Intended use",
            "Research and teaching about full-duplex speech models of a size that ordinary processors run, and a "
            "starting point for desks of one's own: the recipe makes the data, the model and this page from the "
            "desk's rules. It knows only what `desk.yaml` says, cannot look anything up, and is no help with anything "
            "else. It should not answer real customers without a person behind it, and must not pass for a person.",
            "## Data and licences",
            "Callers: Kokoro-82M and hibari-tts (both Apache-2.0), sentences of our own. The agent's voice: hibari-tts "
            "(Apache-2.0). Also listened to: speechocean762 (its train split; free for commercial use, as its README "
            "says), LibriSpeech (CC BY 4.0; its words by Whisper-base), Asterisk's voice prompts (CC BY-SA 3.0), "
            "noises of ESC-10 (CC BY 3.0). Kept for evaluation: eight Kokoro voices, and 5 % of wordings and numbers "
            "by a hash. Code and weights: Apache-2.0.",
            "## Metrics",
            "Whole calls through the serving step: a caller listens and goes on when the agent has finished. A reply "
            f"is right when a recogniser ({made['recogniser']}) hears the words that are due with at most 20 % errors "
            "and every digit exact, in the right turn. Callers keep to their script whatever the agent says, so that "
            "one wrong reply can cost the rest of a call.",
            report_section(report).rstrip(),
            "## Limits",
            "\n".join(f"- {line}" for line in _limits(report)),
        ]
    ) + "\n"  # fmt: skip


def _limits(report: Report) -> list[str]:
    """What the figures do not show, and where they are weakest."""
    found = [
        "Callers are synthetic voices, but for the conditions that say otherwise; they are friendlier than people.",
        "Digits said by people are the recordings of one speaker, put together; prompts of this speaker may be among "
        "what the model has listened to.",
        "Interruptions and nods are placed where two seconds of the reply are left, so that an end can be told from a "
        "stop.",
        "The recogniser makes errors of its own, which count against the agent.",
        "Where a checkpoint has phrases its agent writes no others, which binds the text; the voice can still say "
        "something else.",
    ]
    main = _main(report)
    if main is not None:
        weakest = sorted(main[1]["success"]["by_intent"].items(), key=lambda item: (item[1]["rate"], item[0]))[:3]
        named = ", ".join(f"{name.replace('_', ' ')} {share['successes']}/{share['n']}" for name, share in weakest)
        found.append(f"Weakest intents ({main[1]['title']}): {named}.")
        if not main[1]["actions"]["known"]:
            found.append("This model has no tokens for hand-off and hang-up.")
    ratios = {
        each["title"]: each["ratio_to_clean"]["all_turns"]["ratio"]
        for each in report["conditions"].values()
        if each.get("ratio_to_clean") and each["ratio_to_clean"]["all_turns"]["ratio"] is not None
    }
    if ratios:
        worst = min(ratios, key=lambda title: ratios[title])
        found.append(f"Hardest condition: {worst}, {ratios[worst]:.2f} of the clean one's success.")
    return found


def _main(report: Report) -> tuple[str, dict[str, Any]] | None:
    """The condition that counts most, of those that hold whole calls."""
    for name in ("unheard", "validation", "clean"):
        if name in report["conditions"]:
            return name, report["conditions"][name]
    return None


def _conditions(report: Report) -> str:
    lines = [
        "| condition | replies right | single turns | whole calls | digits | numbers whole | caller's words misheard | "
        "agent against its text | latency p50 / p95 ms | of clean |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in report["conditions"].values():
        success, slots, late = found["success"], found["slots"]["all"], found["latency_ms"]
        cells = [
            found["title"],
            *(_share(success[name]) for name in ("all_turns", "single_turn", "whole_calls")),
            _share(slots["digits"]),
            _share(slots["whole"]),
            _errors(found["caller_word_errors"]),
            _errors(found["agent_word_errors"]),
            f"{_number(late['p50'])} / {_number(late['p95'])}" if late["n"] else "",
            _ratio(found.get("ratio_to_clean")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _details(report: Report, found: Mapping[str, Any]) -> str:
    late, stop, actions = found["latency_ms"], found["interruption"], found["actions"]
    dialogue, rules = found["dialogue"], found["rules"]
    people = dialogue["people_per_minute_s"]
    rows = [
        ("calls; minutes", f"{found['calls']}; {found['minutes']:.0f}"),
        ("whole calls without a wrong reply", _share(found["success"]["whole_calls"])),
        ("and without a wrong action", _share(found["success"]["whole_calls_with_actions"])),
        ("digits of numbers / zip codes",
         f"{_share(found['slots']['numbers']['digits'])} / {_share(found['slots']['zips']['digits'])}"),
        ("numbers / zip codes whole",
         f"{_share(found['slots']['numbers']['whole'])} / {_share(found['slots']['zips']['whole'])}"),
        ("agent's audio against its own text (word errors)", _errors(found["agent_word_errors"])),
        ("naturalness of the agent (DistillMOS)", _mean(found["agent_mos"]) + _beside(report)),
        ("caller's words misheard", _errors(found["caller_word_errors"])),
        ("last caller sound to first agent sound, p50 ms", _percentile(late["p50_interval"])),
        ("the same, p95 ms", f"{_percentile(late['p95_interval'])}; {late['failures']} without an answer"),
        ("turn taken in a thinking pause (low is good)", _share(found["pause_takeover"])),
        ("interruptions: gave way within 2 s and answered", _share(stop["success"])),
        ("and answered rightly", _share(stop["right"])),
        ("stop latency, p50 ms", _percentile(stop["stop_p50_interval"])),
        *((f"went on in spite of: {kind.replace('_', ' ')}", _share(share))
          for kind, share in found["selectivity"].items()),
        *((f"rule: {title}", _share(rules[name])) for name, title in _RULES.items()),
        ("prompts three times in a row", f"{rules['loops']['loops']} in {rules['loops']['n']} calls"),
        *((f"{name}: precision / recall", f"{_share(actions[name]['precision'])} / {_share(actions[name]['recall'])}")
          for name in ("handoff", "hangup")),
        *((f"{name.replace('_', ' ')}, s per minute", f"{_number(value, 1)}; people {_number(people[name], 1)}")
          for name, value in dialogue["per_minute_s"].items()),
    ]  # fmt: skip
    return "\n".join(["| measure | figure |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows)])


def _intents(report: Report, name: str) -> str:
    shares = report["conditions"][name]["success"]["by_intent"]
    cells = [f"{intent.replace('_', ' ')} | {s['successes']}/{s['n']}" for intent, s in shares.items()]
    size = -(-len(cells) // 3)
    columns = [cells[start : start + size] for start in range(0, 3 * size, size)]
    lines = ["| intent | right | intent | right | intent | right |", "| --- | --- | --- | --- | --- | --- |"]
    for row in range(size):
        lines.append("| " + " | ".join(column[row] if row < len(column) else " | " for column in columns) + " |")
    return "\n".join(lines)


def _accents(found: Mapping[str, Any]) -> str:
    groups = found["caller_word_errors_by_group"]
    text = f"Sentences read by people with accents: {_errors(found['caller_word_errors'])} of words misheard"
    if groups:
        each = ", ".join(f"{name}: {_errors(errors)}" for name, errors in groups["groups"].items())
        worst = groups["worst_over_best"]
        text += f" ({each}; worst over best group {'unknown' if worst is None else f'{worst:.2f}'})"
    return text + "."


def _spoken(found: Mapping[str, Any]) -> str:
    text = (
        f"As a voice for given texts (`s2s speak`), every reply and {found['whole']['n']} read-backs: "
        f"{_share(found['said'])} heard rightly, {_errors(found['word_errors'])} of words misheard, numbers whole "
        f"{_share(found['whole'])}; {_share(found['pushed'])} words had to be pushed, as the model did not ask for "
        "them in time"
    )
    return text + (f"; DistillMOS {_mean(found['mos'])}." if found["mos"]["n"] else ".")


def _made(report: Report) -> str:
    made, config = report["manifest"], report["config"]
    warmth = config["temperature"]
    return (
        f"Made by `{made['command']}` in {made['seconds'] / 60:.0f} minutes; commit {str(made['commit'])[:12]}, "
        f"weights {made['weights']}, seed {made['seed']}, {made['recogniser']}, torch "
        f"{made['versions'].get('torch', 'unknown')}, {made['threads']} thread(s) in {made['workers']} process(es) on "
        f"{made['machine']['processor']}; sampling: {'as the model likes it' if warmth is None else warmth}; phrases: "
        f"{'those of the checkpoint' if config['phrases'] else 'any'}."
    )


def _share(share: Mapping[str, Any]) -> str:
    if not share["n"]:
        return ""
    bounds = f"({100 * share['low']:.0f} to {100 * share['high']:.0f})"
    return f"{100 * share['rate']:.0f} % {bounds} of {share['n']}"


def _errors(errors: Mapping[str, Any]) -> str:
    if errors["wer"] is None:
        return ""
    return f"{100 * errors['wer']:.1f} % ({100 * errors['low']:.1f} to {100 * errors['high']:.1f}) of {errors['words']}"


def _mean(mean: Mapping[str, Any]) -> str:
    if not mean["n"]:
        return "not judged"
    return f"{mean['mean']:.2f} ({mean['low']:.2f} to {mean['high']:.2f}), n {mean['n']}"


def _beside(report: Report) -> str:
    voice = report["agent_recordings_mos"]
    return "" if not voice else f"; its recordings {voice['mean']:.2f}"


def _percentile(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return ""
    return f"{_number(found['value'])} ({_number(found['low'])} to {_number(found['high'])}), n {found['n']}"


def _ratio(ratios: Mapping[str, Any] | None) -> str:
    ratio = (ratios or {}).get("all_turns")
    if not ratio or ratio["ratio"] is None:
        return ""
    bounds = "" if ratio["low"] is None else f" ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return f"{ratio['ratio']:.2f}{bounds}"


def _number(value: float | None, digits: int = 0) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
