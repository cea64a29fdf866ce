"""What is written beside every number, and its pictures."""

import json
from pathlib import Path

from s2s.evaluation.manifest import commit, manifest
from s2s.evaluation.plots import draw_bars, draw_shares


def test_a_manifest_is_json_and_tells_the_machine() -> None:
    values = json.loads(json.dumps(manifest("s2s bench x", threads=1)))
    assert values["command"] == "s2s bench x" and values["threads"] == 1
    assert values["machine"]["cores"] >= 1 and values["versions"]["numpy"]
    found = commit()
    assert found is None or len(found.rstrip("+")) == 40


def test_plots_of_many_and_of_no_values(tmp_path: Path) -> None:
    for name, values in (("many", {"a": [1.0, 2.0, 2.0], "b": [5.0]}), ("none", {"a": []})):
        assert draw_shares(tmp_path / f"{name}.png", values, "ms", "title", limit=3).read_bytes()[:4] == b"\x89PNG"
    assert draw_bars(tmp_path / "bars.png", {"a": 0.5, "b": None}, "share", "title").exists()
