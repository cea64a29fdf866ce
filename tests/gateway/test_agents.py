"""npm's `@openai/agents` as a client over WebSocket, where node is present.

`npm install --prefix tests/gateway/js` makes it so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2s.gateway.server import ServerConfig
from s2s.text import ByteTokenizer
from tests.gateway.serving import serving, silence, speech
from tests.gateway.test_realtime import HEARD, QUESTION, SAID, script

FOLDER = Path(__file__).with_name("js")

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules").is_dir(),
    reason="needs node and `npm install --prefix tests/gateway/js`",
)


def call(tmp_path: Path, *parts: np.ndarray) -> dict[str, Any]:
    caller = tmp_path / "caller.pcm"
    caller.write_bytes(np.concatenate(parts).astype("<i2").tobytes())
    with serving(script(), ServerConfig(model="scripted"), tokenizer=ByteTokenizer(), live=True) as served:
        program = ["node", str(FOLDER / "call.mjs"), f"{served.ws}/v1/realtime?model=s2s", str(caller)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["errors"] == [] and "error" not in found["types"]
    return found


def test_a_turn(tmp_path: Path) -> None:
    found = call(tmp_path, silence(0.2), QUESTION, silence(4.0))
    assert {"session.created", "session.updated", "response.done"} <= set(found["types"])
    assert found["bytes"] > 24000 and found["interruptions"] == 0
    assert {"role": "user", "status": "completed", "text": HEARD} in found["history"]
    assert {"role": "assistant", "status": "completed", "text": SAID} in found["history"]


def test_an_interruption(tmp_path: Path) -> None:
    """Its playback stops, and what it did not play is cut from the history."""
    found = call(tmp_path, silence(0.2), QUESTION, silence(1.0), speech()[:29000], silence(1.0))
    assert found["interruptions"] >= 1
    cut = [item for item in found["history"] if item["role"] == "assistant" and item["text"] != SAID]
    assert cut and SAID.startswith(cut[0]["text"])
