"""`s2s bench latency|barge-in|load|conversation`: what they print, what they leave behind, and one line per mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2s.audio.io import read_audio, write_wav
from s2s.cli.bench_barge_in import _deal
from s2s.evaluation.barge_in import default_clips
from s2s.evaluation.given_calls import SHIPPED, read_given_calls
from s2s.models.scripted import Script, ScriptedStep
from tests.cli.test_cli import as_json, error_line, s2s
from tests.evaluation.tones import track
from tests.gateway.serving import Served, serving

RATE = 24000


@pytest.fixture(scope="module")
def scripted() -> Iterator[Served]:
    answer = torch.from_numpy(read_given_calls(SHIPPED, RATE)[1].caller[1200:51600].copy())
    with serving(ScriptedStep(Script(answer.repeat(2), delay_s=0.2)), live=True, max_sessions=3) as server:
        yield server


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A short call of one turn."""
    rng = np.random.default_rng(0)
    wav = np.zeros(round(1.6 * RATE))
    wav[RATE // 4 : RATE] = 0.1 * rng.standard_normal(RATE * 3 // 4)
    write_wav(tmp_path / "call.wav", wav, RATE)
    (tmp_path / "calls.jsonl").write_text('{"audio": "call.wav", "speech": [[0.25, 1.0]]}\n')
    return tmp_path / "calls.jsonl"


def manifest(folder: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return parsed


@pytest.mark.parametrize("protocol", ["live", "realtime"])
def test_latency_of_a_running_server(scripted: Served, calls: Path, tmp_path: Path, protocol: str) -> None:
    out = tmp_path / "out"
    rate = 2 if protocol == "live" else 0
    arguments = ["--url", scripted.ws, "--calls", calls, "--sessions", 2, "--rounds", 1, "--rate", rate, "--json"]
    whole = as_json(s2s("bench", "latency", *arguments, "--protocol", protocol, "--out", out))
    result = whole["result"]
    assert list(result) == (["cold", "closed", "open"] if rate else ["cold", "closed"])
    assert result["closed"]["calls"] == 2 and result["closed"]["broken"] == 0
    v2v = result["closed"]["v2v_ms"]
    assert (v2v["n"], v2v["failures"]) == (2, 0)
    assert 200 < v2v["p50"] < 1500, "a delay of 200 ms and a buffer of 40 ms, on a machine that may be busy"
    assert result["closed"]["wire_ttfa_ms"]["n"] == 2 and 0 < result["closed"]["client_cores"] < 4
    assert whole == manifest(out) and whole["manifest"]["protocol"] == protocol
    assert len(whole["manifest"]["inputs_sha256"]) == 1 and whole["manifest"]["server"] is None
    stereo, rate = read_audio(out / "closed-0000.wav")
    assert rate == RATE and stereo.shape[0] == 2 and stereo[1].any()
    assert (out / "v2v.png").read_bytes()[:4] == b"\x89PNG"


def test_latency_on_a_server_of_its_own(calls: Path) -> None:
    arguments = ("--calls", calls, "--sessions", 1, "--rounds", 1, "--rate", 0, "--threads", 1)
    whole = as_json(s2s("bench", "latency", "--model", "echo", *arguments, "--json"))
    closed, server = whole["result"]["closed"], whole["manifest"]["server"]
    assert (server["model"], server["frame_ms"], server["weights_sha256"], server["threads"]) == ("echo", 40, None, 1)
    assert closed["echo_ms"]["failures"] == 0
    assert closed["echo_ms"]["p50"] > 80, "a frame and the playout buffer"
    assert 0 <= closed["overhead_ms"]["p50"] < 1000
    assert closed["server_cores"] is None or closed["server_cores"] >= 0
    assert "open" not in whole["result"]


def test_barge_in(scripted: Served, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--url", scripted.ws, "--events", 3, "--sessions", 3, "--seed", 2)
    result = s2s("bench", "barge-in", *arguments, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "stop latency" in result.stdout and "goes on: backchannel" in result.stdout
    found = manifest(out)["result"]
    assert (found["events"], found["lost"], found["unanswered"], found["broken"]) == (3, 0, 0, 0)
    assert found["yield"]["n"] + sum(kind["n"] for kind in found["selectivity"].values()) == 3
    assert (out / "call-0002.wav").exists() and (out / "stop.png").exists()


def test_overlaps_are_dealt_in_their_mix() -> None:
    clips = default_clips(read_given_calls(SHIPPED, RATE))
    dealt = _deal(clips, 16, 3, seed=0)
    kinds = [clip.kind for some in dealt for clip in some]
    assert [len(some) for some in dealt] == [6, 5, 5]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "interruption": 8, "backchannel": 4, "side_speech": 2, "noise": 2,
    }  # fmt: skip
    assert _deal(clips, 16, 3, seed=0) == dealt


def test_load_of_a_running_server(scripted: Served, calls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--url", scripted.ws, "--calls", calls, "--sessions", 3, "--hold", 3, "--factors", 4, "--flood", 2)
    whole = as_json(s2s("bench", "load", *arguments, "--out", out, "--json"))
    result = whole["result"]
    assert result["n_star"] == 3 and "ramp" not in result and not result["at_limit"]
    assert result["base"]["answer_ms"]["n"] == 3
    [overload] = result["overload"]
    assert overload["offered"] == overload["admitted"] + overload["refused"] + overload["broken"]
    assert overload["refused"] > 0 and overload["refusal_ms"]["p50"] < 5000
    assert overload["recovery_s"] < 5 and set(overload["holds"]) == {"p99", "refusals", "recovery"}
    assert (out / "overload-4.png").exists() and (out / "alone-0000.wav").exists()


def test_the_ramp_of_load(scripted: Served, calls: Path) -> None:
    arguments = ("--url", scripted.ws, "--calls", calls, "--hold", 1.5, "--limit", 5, "--factors", "")
    result = as_json(s2s("bench", "load", *arguments, "--json"))["result"]
    assert result["n_star"] <= 3, "the server has no room for more"
    assert [step["sessions"] for step in result["ramp"]][:1] == [1]
    assert any(step["trouble"] for step in result["ramp"])
    assert "hold_s" in result["definition"] and result["hold_s"] == 1.5


def test_conversation(tmp_path: Path) -> None:
    write_wav(tmp_path / "o.wav", track(4, (1.0, 1.4)), 16000)
    lines = [
        {"task": "pause_handling", "output": "o.wav", "words": []},
        {"task": "turn_taking", "output": "o.wav", "words": [["hello", 1.5, 2.6]], "turn_end_s": 1.25},
        {"task": "backchannel", "output": "o.wav", "words": [["yes", 1.0, 1.3]], "people": [1, 0, 0]},
    ]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    whole = as_json(s2s("bench", "conversation", tmp_path / "l.jsonl", "--out", tmp_path / "out", "--json"))
    assert whole["result"]["pause_handling"]["takeover_rate"]["rate"] == 0
    assert whole["result"]["turn_taking"]["latency_s"]["p50"] == 0.25
    assert whole["result"]["backchannel"]["backchannels"] == 1
    assert len(whole["result"]["samples"]) == len(whole["manifest"]["inputs_sha256"]) == 3
    assert (tmp_path / "out" / "takeover.png").exists()
    shown = s2s("bench", "conversation", tmp_path / "l.jsonl")
    assert "turn_taking" in shown.stdout and "Jensen-Shannon" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("latency", "--sessions", 0), "--sessions is 0"),
        (("latency", "--gap", 0), "--gap is 0"),
        (("latency", "--rate", -1), "--rate is -1"),
        (("latency", "--playout-ms", -1), "--playout-ms is -1"),
        (("latency", "--protocol", "sip"), "allowed are live and realtime"),
        (("latency", "--url", "ftp://x"), "is no address"),
        (("latency", "--url", "ws://127.0.0.1:1"), "cannot reach"),
        (("latency", "--calls", "/nowhere"), "/nowhere"),
        (("latency", "--model", "no-such-model"), "no-such-model"),
        (("barge-in", "--events", 0), "--events is 0"),
        (("barge-in", "--url", "ws://127.0.0.1:1"), "cannot reach"),
        (("load", "--hold", 0), "--hold is 0"),
        (("load", "--factors", "ten"), "--factors is 'ten'"),
        (("load", "--url", "ws://127.0.0.1:1", "--limit", 1), "cannot reach"),
        (("conversation", "/nowhere"), "/nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[object, ...], message: str) -> None:
    # Progress is told line by line before a server turns out not to be there.
    result = s2s("bench", *arguments, *([] if arguments[0] == "conversation" else ["--json"]))
    assert result.exit_code == 2 and result.stdout == "", result.output
    last = str(result.stderr).strip().splitlines()[-1]
    assert last.startswith("s2s: error: ") and message in last and "Traceback" not in result.stderr


def test_out_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file" in error_line(s2s("bench", "barge-in", "--out", tmp_path / "file"))
