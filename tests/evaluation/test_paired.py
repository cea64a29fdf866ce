"""Two models on the same calls: what only one of them has right, and calls that are not the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from s2s.cli.main import app
from s2s.evaluation.paired import compare, mcnemar


def reply(right: bool, intent: str = "refund", own: str = "Refunds take three days.") -> dict[str, Any]:
    expected = "Refunds take three days"
    return {"intent": intent, "expected": expected, "own": own, "digits": "", "success": right}


def evaluation(folder: Path, calls: list[list[dict[str, Any]]], caller: str = "A refund, please.") -> Path:
    (folder / "calls").mkdir(parents=True)
    lines = [
        json.dumps({"name": f"talk-{number:03d}", "caller_text": caller, "replies": replies})
        for number, replies in enumerate(calls)
    ]
    (folder / "calls" / "clean.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def test_what_only_one_has_right_is_counted(tmp_path: Path) -> None:
    good, bad = reply(True), reply(False, own="Goodbye.")
    one = evaluation(tmp_path / "one", [[good, good, bad], [bad, bad], [good]])
    other = evaluation(tmp_path / "other", [[good, bad, good], [good, good], [good, reply(True, "opening")][:1]])
    found = compare([one], [other])["clean"]["replies right"]
    assert {name: found[name] for name in ("n", "one", "other", "only_one", "only_other")} == {
        "n": 6, "one": 3, "other": 5, "only_one": 1, "only_other": 3,
    }  # fmt: skip
    assert found["difference"] == pytest.approx(2 / 6)
    assert found["low"] <= found["difference"] <= found["high"]
    assert found["p"] == pytest.approx(0.625)  # 1 of 4 or fewer, either way: 2 * (1 + 4) / 16
    assert compare([one], [one])["clean"]["texts right"]["difference"] == 0
    pooled = compare([one, other], [other, one])["clean"]["replies right"]
    assert (pooled["n"], pooled["difference"]) == (12, 0)


def test_greetings_and_silence_are_no_replies(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", [[reply(True, "opening"), reply(True), reply(False, "silence")]])
    assert compare([one], [one])["clean"]["replies right"]["n"] == 1


@pytest.mark.parametrize(("split", "p"), [((0, 0), 1.0), ((5, 5), 1.0), ((0, 5), 0.0625), ((8, 0), 2 / 256)])
def test_mcnemar_is_the_exact_sign_test(split: tuple[int, int], p: float) -> None:
    assert mcnemar(*split) == pytest.approx(p)


def test_calls_that_are_not_the_same_are_refused(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", [[reply(True)]])
    other = evaluation(tmp_path / "other", [[reply(True)]], caller="My money back.")
    fewer = evaluation(tmp_path / "fewer", [])
    for folders in ((one, other), (one, fewer), (fewer, one)):
        with pytest.raises(ValueError, match="clean, talk-000: not the same call"):
            compare([folders[0]], [folders[1]])
    with pytest.raises(ValueError, match="as many of each"):
        compare([one, one], [other])
    with pytest.raises(ValueError, match="not the folder of an evaluation"):
        compare([one], [tmp_path])


@pytest.mark.parametrize(
    "line", ['{"id": 7}', "Dear diary,", "[]", '{"name": "talk-000", "caller_text": "", "replies": [{}]}']
)
def test_other_jsonl_files_are_refused(line: str, tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", [[reply(True)]])
    (tmp_path / "notes" / "calls").mkdir(parents=True)
    (tmp_path / "notes" / "calls" / "clean.jsonl").write_text(line, "utf-8")
    with pytest.raises(ValueError, match=r"clean\.jsonl: not the calls of an evaluation"):
        compare([one], [tmp_path / "notes"])


def test_the_command_prints_a_line_for_each_measure(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", [[reply(True)], [reply(False)]])
    other = evaluation(tmp_path / "other", [[reply(True)], [reply(True)]])
    shown = CliRunner().invoke(app, ["evaluate", "compare", str(one), str(other)])
    assert shown.exit_code == 0, shown.output
    assert "replies right" in shown.output and "+50.0%" in shown.output
    as_json = CliRunner().invoke(app, ["evaluate", "compare", str(one), str(other), "--json"])
    assert json.loads(as_json.stdout)["clean"]["replies right"]["only_other"] == 1
    wrong = CliRunner().invoke(app, ["evaluate", "compare", str(one), str(tmp_path)])
    assert wrong.exit_code != 0 and "not the folder of an evaluation" in wrong.output
