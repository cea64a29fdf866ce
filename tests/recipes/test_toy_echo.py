"""The toy recipe runs from its first stage to a wav, shortened: a few steps of everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

from s2s.audio.io import read_audio
from s2s.checkpoint import load

ROOT = Path(__file__).parents[2]


def test_the_shortened_recipe_ends_in_an_audible_wav(tmp_path: Path) -> None:
    s2s = f"{sys.executable} -m s2s.cli.main"
    settings = {"OUT": str(tmp_path), "SHORT": "1", "PYTHON": sys.executable, "S2S": s2s}
    environment = os.environ | settings | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([ROOT / "recipes/toy_echo/run.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["tones"] > 0
    wav, rate = read_audio(tmp_path / "toy" / "answer-0.wav")
    assert wav.shape[0] == 2 and rate == 24000
    assert wav[0].any() and wav[1].any()
    assert load(tmp_path / "toy" / "model").step().step_size == 960
