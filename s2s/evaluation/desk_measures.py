"""Desk measures: from judged calls to the numbers of a report, each with n and a 95 % interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from s2s.evaluation.barge_in import report as barge_in_report
from s2s.evaluation.dialogue_statistics import per_minute
from s2s.evaluation.judged_call import OPENING, SILENCE, JudgedCall, JudgedReply
from s2s.evaluation.statistics import mean_interval, percentile_interval, proportion, ratio_interval, summarise
from s2s.evaluation.word_errors import word_error_rate

# The rules that a reply of this key obeys.
RULES = {"silence": "still_there", "silence_again": "give_up", "unclear": "unclear", "ladder": "unclear_again"}
ACTIONS = ("handoff", "hangup")
WHOLE_CALLS = ("talk",)
SINGLE = ("single", "digits")
SILENCE_MS = (5000.0, 8000.0)  # when an agent that was answered by silence should ask: six seconds, give or take


def measure(calls: Sequence[JudgedCall], actions_known: bool = True) -> dict[str, Any]:
    """All measures of one condition, ready for JSON. actions_known: the model has tokens for actions."""
    replies = [reply for call in calls for reply in call.replies]
    turns = [reply for reply in replies if reply.intent not in (OPENING, SILENCE)]
    whole = [call for call in calls if call.plan in WHOLE_CALLS]
    single = [r for call in calls if call.plan in SINGLE for r in call.replies if r.target]
    heard = [call for call in calls if call.caller_text]
    spoken = [reply for reply in replies if reply.own or reply.heard]
    return {
        "calls": len(calls),
        "minutes": sum(call.duration_s for call in calls) / 60,
        "success": {
            "single_turn": _success(single),
            "all_turns": _success(turns),
            "by_intent": _by(turns, lambda reply: reply.intent),
            "whole_calls": proportion(sum(_right(call) for call in whole), len(whole)),
            "whole_calls_with_actions": proportion(
                sum(_right(call) and _acted(call) for call in whole), len(whole)
            ),
        },
        "slots": _slots(turns),
        "agent_word_errors": word_error_rate([r.own for r in spoken], [r.heard for r in spoken]),
        "agent_mos": mean_interval([reply.mos for reply in replies if reply.mos is not None]),
        "caller_word_errors": word_error_rate([c.caller_text for c in heard], [c.caller_heard for c in heard]),
        "caller_word_errors_by_group": _groups(heard),
        "latency_ms": _latency(turns),
        "pause_takeover": proportion(sum(map(sum, (c.takeovers for c in calls))), sum(len(c.takeovers) for c in calls)),
        "interruption": _interruptions(calls, turns),
        "selectivity": barge_in_report([o for call in calls for o in call.overlaps])["selectivity"],
        "rules": _rules(calls, replies),
        "actions": {name: _action(calls, name) for name in ACTIONS} | {"known": actions_known},
        "dialogue": per_minute(call.statistics for call in calls if call.plan in ("talk", "single")),
    }  # fmt: skip


def ratios(condition: dict[str, Any], clean: dict[str, Any]) -> dict[str, Any]:
    """What is left of the clean condition: of success the ratio with its interval, of word errors the ratio."""
    found: dict[str, Any] = {}
    for name in ("single_turn", "all_turns", "whole_calls"):
        part, whole = condition["success"][name], clean["success"][name]
        found[name] = ratio_interval((part["successes"], part["n"]), (whole["successes"], whole["n"]))
    for name in ("caller_word_errors", "agent_word_errors"):
        errors, of = condition[name]["wer"], clean[name]["wer"]
        found[name] = errors / of if errors is not None and of else None
    return found


def _success(replies: Sequence[JudgedReply]) -> dict[str, Any]:
    return proportion(sum(reply.success for reply in replies), len(replies))


def _by(replies: Iterable[JudgedReply], key: Callable[[JudgedReply], str]) -> dict[str, Any]:
    groups: dict[str, list[JudgedReply]] = {}
    for reply in replies:
        groups.setdefault(key(reply), []).append(reply)
    return {name: _success(of) for name, of in sorted(groups.items())}


def _right(call: JudgedCall) -> bool:
    return bool(call.replies) and all(reply.success for reply in call.replies)


def _acted(call: JudgedCall) -> bool:
    return len(call.actions_right) == len(call.actions_due) and not call.actions_wrong


def _slots(turns: Sequence[JudgedReply]) -> dict[str, Any]:
    """Digits read back in their place, and numbers and zip codes read back whole."""
    with_digits = [reply for reply in turns if reply.digits and reply.key in ("give_number", "give_zip")]

    def of(replies: Sequence[JudgedReply]) -> dict[str, Any]:
        whole = sum(reply.right == len(reply.digits) and reply.success for reply in replies)
        total = sum(len(reply.digits) for reply in replies)
        return {"digits": proportion(sum(reply.right for reply in replies), total),
                "whole": proportion(whole, len(replies))}  # fmt: skip

    return {
        "all": of(with_digits),
        "numbers": of([reply for reply in with_digits if reply.key == "give_number"]),
        "zips": of([reply for reply in with_digits if reply.key == "give_zip"]),
    }


def _groups(calls: Sequence[JudgedCall]) -> dict[str, Any]:
    """The caller's word errors by group of speakers, where there are groups, and the worst beside the best."""
    names = sorted({call.group for call in calls} - {""})
    if not names:
        return {}
    found: dict[str, Any] = {}
    for name in names:
        of = [call for call in calls if call.group == name]
        found[name] = word_error_rate([c.caller_text for c in of], [c.caller_heard for c in of])
    rates = [each["wer"] for each in found.values() if each["wer"] is not None]
    return {"groups": found, "worst_over_best": max(rates) / min(rates) if rates and min(rates) > 0 else None}


def _latency(turns: Sequence[JudgedReply]) -> dict[str, Any]:
    """voice_to_voice of every turn that wants an answer; one that never comes is a failure."""
    gaps = [reply.gap_ms for reply in turns if reply.gap_ms is not None]
    failures = len(turns) - len(gaps)
    return summarise(gaps, failures) | {
        "early": sum(gap < 0 for gap in gaps),
        "p50_interval": percentile_interval(gaps, 50, failures),
        "p95_interval": percentile_interval(gaps, 95, failures),
        "values": [round(gap) for gap in gaps],
    }


def _interruptions(calls: Sequence[JudgedCall], turns: Sequence[JudgedReply]) -> dict[str, Any]:
    """success: the agent gave way within two seconds and answered; right: and its answer was the one that was due."""
    found = barge_in_report([o for call in calls for o in call.overlaps if o.kind == "interruption"])
    over = [reply for reply in turns if reply.over and reply.stopped is not None]
    yielded = [o for call in calls for o in call.overlaps if o.kind == "interruption" and o.yielded]
    stops = [outcome.stop_ms for outcome in yielded if outcome.stop_ms is not None]
    return {
        "success": proportion(sum(bool(r.stopped) and r.gap_ms is not None for r in over), len(over)),
        "right": proportion(sum(bool(r.stopped) and r.success for r in over), len(over)),
        "yield": found["yield"],
        "stop_ms": found["stop_ms"],
        "stop_p50_interval": percentile_interval(stops, 50, found["stop_ms"]["failures"]),
        "not_over_speech": found["not_over_speech"],
    }


def _rules(calls: Sequence[JudgedCall], replies: Sequence[JudgedReply]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, key in RULES.items():
        of = [reply for reply in replies if reply.key == key]
        obeyed = sum(reply.success and (reply.intent != SILENCE or _in_time(reply)) for reply in of)
        result[name] = proportion(obeyed, len(of))
    ladders = [call for call in calls if call.plan == "ladder"]
    done = sum("handoff" in call.actions_right and any(r.key == "unclear_again" and r.success for r in call.replies)
               for call in ladders)  # fmt: skip
    result["ladder_with_handoff"] = proportion(done, len(ladders))
    result["loops"] = {"n": len(calls), "loops": sum(call.loops for call in calls)}
    return result


def _in_time(reply: JudgedReply) -> bool:
    return reply.gap_ms is not None and SILENCE_MS[0] <= reply.gap_ms <= SILENCE_MS[1]


def _action(calls: Sequence[JudgedCall], name: str) -> dict[str, Any]:
    """precision: of those done, how many were due; recall: of those due, how many were done in their turn."""
    due, right, wrong = (
        sum(Counter(each)[name] for each in names)
        for names in (
            [call.actions_due for call in calls],
            [call.actions_right for call in calls],
            [call.actions_wrong for call in calls],
        )
    )
    return {"precision": proportion(right, right + wrong), "recall": proportion(right, due)}
