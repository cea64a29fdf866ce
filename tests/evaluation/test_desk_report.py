"""The report of a support desk: from calls to files and pages, and the command that makes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from s2s.checkpoint import Bundle, Defaults
from s2s.cli import evaluate_desk as command
from s2s.cli.main import app
from s2s.config import to_dict
from s2s.evaluation import desk_evaluation
from s2s.evaluation.audibility import Span
from s2s.evaluation.caller_script import ScriptWriter
from s2s.evaluation.desk_evaluation import DeskEvaluation, evaluate_desk
from s2s.evaluation.desk_measures import measure, ratios
from s2s.evaluation.desk_pages import model_card, report_section
from s2s.evaluation.dialogue_statistics import dialogue_statistics, per_minute
from s2s.evaluation.given_texts import desk_texts, say_texts
from s2s.evaluation.manifest import manifest
from s2s.evaluation.statistics import mean_interval, percentile_interval, ratio_interval
from s2s.streams import dialogue_layout
from s2s.text import ByteTokenizer
from tests.evaluation.desk import DESK, RATE, Hears, agent, material, played, right_texts
from tests.tiny import SPEC, tiny_codec, tiny_model

CONFIG = DeskEvaluation("recipes/support_desk/desk.yaml", ("clips/*.parquet",), recogniser="tiny", naturalness=False)


def say():
    """What a tiny model says of three replies and two read-backs, the first of each understood."""
    texts = desk_texts(DESK, 2, seed=0)[-5:]
    layout = dialogue_layout(SPEC.num_codebooks, SPEC.codebook_size, 256)
    bundle = Bundle(tiny_codec(), tiny_model(layout), ByteTokenizer(), Defaults(speed="exact"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s2s.evaluation.speak.is_quiet", lambda wav: True)  # random weights never are
        return say_texts(bundle, texts, Hears(texts[0].text, "", "", texts[3].text, ""))


@pytest.fixture(scope="module")
def report():
    """Of one call that went well on a clean line, and one in which the agent said nothing to unheard voices."""
    written = ScriptWriter(material()).write("talk", 0, 0)
    clean = measure([played(written, agent(2.5), Hears(*right_texts(written)))])
    silent = measure([played(written, agent(level=0.0), Hears(""))], actions_known=False)
    facts = {"weights": "abc", "seed": 0, "threads": 1, "workers": 1, "recogniser": "whisper-tiny", "seconds": 90.0}
    return {
        "manifest": manifest("s2s evaluate", **facts),
        "config": to_dict(CONFIG),
        "agent_recordings_mos": mean_interval([4.4, 4.6]),
        "conditions": {
            "clean": {"title": "clean"} | clean,
            "unheard": {"title": "unheard voices and wordings", "ratio_to_clean": ratios(silent, clean)} | silent,
        },
        "spoken": say(),
        "left_out": {"human_digits": "no recordings of digits were given (digits)"},
    }


def test_pages_tell_every_measure(report):
    report = json.loads(json.dumps(report))  # as it is read from its file
    section, turns = report_section(report), report["conditions"]["clean"]["success"]["all_turns"]["n"]
    assert f"| clean | 100 % ({100 * turns / (turns + 3.8416):.0f} to 100) of {turns} |" in section
    assert re.search(r"\| unheard voices and wordings \| 0 % .*\| none / none \| 0\.00 \|", section)
    assert "40 % (12 to 77) of 5 heard rightly" in section and "numbers whole 50 % (9 to 91) of 2" in section
    assert "its recordings 4.50" in section and "human_digits: no recordings of digits" in section
    card = model_card(report)
    assert section.rstrip() in card
    for heading in ("Intended use", "Data and licences", "Metrics", "Limits"):
        assert f"## {heading}" in card
    assert "This model has no tokens for hand-off" in card and "Hardest condition: unheard voices" in card
    assert "nan" not in card.lower().split() and "None" not in card


def test_a_whole_run_writes_its_folder(tmp_path, monkeypatch):
    bundle = SimpleNamespace(tokenizer=None, defaults=SimpleNamespace(temperature=0.0, top_k=50, agent_lead_steps=2,
                             user_lag_steps=3))  # fmt: skip
    tools = SimpleNamespace(bundle=bundle, step=agent(2.0), recogniser=Hears("Hello."), naturalness=None, noises=[],
                            texts=[], material=lambda condition: material(split=condition.split))  # fmt: skip
    monkeypatch.setattr(desk_evaluation, "_tools", lambda config: tools)
    monkeypatch.setattr(desk_evaluation, "_check", lambda config: None)
    config = replace(CONFIG, folder=str(tmp_path), conditions=("loss_5", "voices"), count=1, rows=2, read_backs=0,
                     model="random")  # fmt: skip
    result = evaluate_desk(config, "test")
    assert list(result["conditions"]) == ["loss_5"] and list(result["left_out"]) == ["voices"]
    assert result["conditions"]["loss_5"]["calls"] == 2
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(result))
    calls = [json.loads(line) for line in (tmp_path / "calls" / "loss_5.jsonl").read_text().splitlines()]
    assert {call["plan"] for call in calls} == {"single", "talk"}
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert {"report.md", "MODEL_CARD.md", "success.png", "samples/loss_5-talk-000.wav"} <= files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=nope"], "those that can be evaluated are support_desk"),
        (["experiment=support_desk", "cuont=3"], "did you mean 'count'"),
        (["experiment=support_desk", "count=0"], "count is 0"),
        (["experiment=support_desk", "conditions=[clear]"], "conditions has 'clear'"),
        (["experiment=support_desk", "callers=[/nowhere/*.parquet]"], "no clips match"),
        (["experiment=support_desk", "workers"], "no key=value"),
        (["--json", "experiment=support_desk", "count=["], "error"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and message in result.stderr


def test_keys_arrive_and_json_is_alone(monkeypatch, report):
    seen = []
    monkeypatch.setattr(command, "evaluate_desk", lambda config, text: seen.append((config, text)) or report)
    result = CliRunner().invoke(app, ["evaluate", "experiment=support_desk", "evaluation.count=7", "seed=3", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["left_out"]
    assert (seen[0][0].count, seen[0][0].seed) == (7, 3) and "evaluation.count=7" in seen[0][1]


def test_pages_are_made_again_from_a_report(tmp_path, report):
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert CliRunner().invoke(app, ["evaluate", "pages", f"{tmp_path}/report.json", f"{tmp_path}/out"]).exit_code == 0
    assert (tmp_path / "out" / "MODEL_CARD.md").read_text() == model_card(report)
    (tmp_path / "report.json").write_text("{}")
    wrong = CliRunner().invoke(app, ["evaluate", "pages", f"{tmp_path}/report.json", str(tmp_path)])
    assert wrong.exit_code == 2 and "is not the report" in wrong.stderr


def test_dialogue_statistics_of_a_known_conversation():
    def spans(*seconds):
        return [Span(round(a * RATE), round(b * RATE)) for a, b in seconds]

    # A pause of 0.5 s in the caller's turn (one of 0.1 s is none), a gap of 0.2 s, an overlap of 1 s.
    found = dialogue_statistics(spans((1, 2), (2.1, 3), (3.5, 4), (6, 7.5)), spans((4.2, 7)), RATE)
    values = (found.inter_pausal_units, found.pauses, found.gaps, found.overlap, found.duration_s)
    assert values == pytest.approx((2 + 0.5 + 1.5 + 2.8, 0.5, 0.2, 1.0, 6.5))
    assert per_minute([found, found])["per_minute_s"]["pauses"] == pytest.approx(0.5 / 6.5 * 60)


def test_intervals_hold_their_value():
    found = percentile_interval([float(v) for v in range(1, 101)], 50)
    assert (found["value"], found["low"], found["high"]) == (50, 40, 61)
    assert percentile_interval([1.0] * 9, 95, failures=1)["value"] is None
    ratio = ratio_interval((45, 50), (90, 100))
    assert ratio["ratio"] == 1.0 and ratio["low"] == pytest.approx(1 / ratio["high"]) and 0.85 < ratio["low"] < 0.95
    assert mean_interval([]) == {"n": 0, "mean": None, "low": None, "high": None}


def test_every_reply_of_the_desk_is_known():
    texts = desk_evaluation.all_texts(DESK)
    assert DESK.opening in texts and any("zero zero zero zero" in text for text in texts)
