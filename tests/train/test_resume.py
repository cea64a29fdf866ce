"""A run that was stopped anyhow and started again equals the run that was not, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from s2s.train.checkpoints import checkpoint_path, list_checkpoints, newest_loadable, read_checkpoint
from tests.train.toy import RUNS, TOTAL_STEPS, assert_same, train_to_end, training_state

KINDS = sorted(RUNS)


class Crash(Exception):
    """A run that ends without saving."""


class CrashAt(Callback):
    def __init__(self, batch: int):
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise Crash


class SignalAt(Callback):
    def __init__(self, batch: int):
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole_runs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each kind of run ends with when nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: training_state(train_to_end(RUNS[kind](toy, folder / kind))) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crashes", [(3,), (4,), (5,), (1, 6)], ids=str)
def test_resume_equals_the_whole_run(
    kind: str, crashes: tuple[int, ...], toy: Path, tmp_path: Path, whole_runs: dict[str, Any]
) -> None:
    """With a checkpoint at every step: in the middle, at the end and at the beginning of an epoch."""
    run = RUNS[kind](toy, tmp_path, "callbacks.save_every=1")
    for crash in crashes:
        with pytest.raises(Crash):
            train_to_end(run, CrashAt(crash))
    assert_same(training_state(train_to_end(run)), whole_runs[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_after_the_last_checkpoint_are_done_again(
    kind: str, toy: Path, tmp_path: Path, whole_runs: dict[str, Any]
) -> None:
    run = RUNS[kind](toy, tmp_path, "callbacks.save_every=2")
    with pytest.raises(Crash):
        train_to_end(run, CrashAt(5))
    assert_same(training_state(train_to_end(run)), whole_runs[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_resumes(kind: str, toy: Path, tmp_path: Path, whole_runs: dict[str, Any]) -> None:
    step = random.SystemRandom().randrange(1, TOTAL_STEPS)
    program = f"""
        import os, signal, torch
        from pathlib import Path
        from lightning.pytorch import Callback
        from s2s.train.run import run_training
        from tests.train.toy import RUNS
        torch.set_num_threads(1)
        class Kill(Callback):
            def on_train_batch_end(self, trainer, *args):
                if trainer.fit_loop.total_batch_idx == {step}:
                    os.kill(os.getpid(), signal.SIGKILL)
        run_training(RUNS[{kind!r}](Path({str(toy)!r}), Path({str(tmp_path)!r}), "callbacks.save_every=1"), [Kill()])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL, f"killed at batch {step}"
    assert read_checkpoint(newest_loadable(tmp_path / "checkpoints") or "")["global_step"] == step
    assert_same(training_state(train_to_end(RUNS[kind](toy, tmp_path))), whole_runs[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_sigterm_saves_and_ends_the_run(kind: str, toy: Path, tmp_path: Path, whole_runs: dict[str, Any]) -> None:
    run = RUNS[kind](toy, tmp_path, "callbacks.save_every=100")
    handler = signal.getsignal(signal.SIGTERM)
    assert train_to_end(run, SignalAt(2))["global_step"] == 3
    assert signal.getsignal(signal.SIGTERM) == handler
    assert_same(training_state(train_to_end(run)), whole_runs[kind])


def test_sigterm_to_the_whole_process_group_ends_the_command_cleanly(toy: Path, tmp_path: Path) -> None:
    """As service managers and `timeout` send it: the workers that load data get it too."""
    arguments = ["experiment=toy_codec", "debug=tiny", "optim.total_steps=1000000", "callbacks.save_every=1"]
    arguments += [f"folder={tmp_path}", f"data.files=[{toy}/audio.parquet]", "data.crop_samples=9600"]
    arguments += ["data.num_workers=1", "callbacks.sample_every=0", "logger.tensorboard=false"]
    program = "import sys; from s2s.cli.train import train; train(sys.argv[1:])"
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True) as process:
        while process.poll() is None and not list_checkpoints(tmp_path / "checkpoints"):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(timeout=120) == 0
    assert time.monotonic() - began < 30
    assert newest_loadable(tmp_path / "checkpoints")


def test_accumulated_gradients_resume_and_sigterm_waits_for_the_step(toy: Path, tmp_path: Path) -> None:
    more = ("trainer.accumulate=2", "optim.total_steps=4")
    whole = train_to_end(RUNS["duplex"](toy, tmp_path / "whole", *more))
    run = RUNS["duplex"](toy, tmp_path / "parts", *more)
    assert train_to_end(run, SignalAt(2))["global_step"] == 2
    assert_same(training_state(train_to_end(run)), training_state(whole))


def test_validation_and_samples_change_nothing(toy: Path, tmp_path: Path, whole_runs: dict[str, Any]) -> None:
    more = (f"data.val_shards=[{toy}/shards]", "trainer.validate_every=2", "callbacks.sample_every=3")
    run = RUNS["duplex"](toy, tmp_path, *more)
    with pytest.raises(Crash):
        train_to_end(run, CrashAt(4))  # the validation behind the checkpoint of step 4 was done already
    assert_same(training_state(train_to_end(run)), whole_runs["duplex"])
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        "step-00000003-0.wav",
        "step-00000006-0.wav",
    ]


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    toy: Path, tmp_path: Path, whole_runs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = RUNS["duplex"](toy, tmp_path, "callbacks.save_every=1")
    with pytest.raises(Crash):
        train_to_end(run, CrashAt(4))
    newest, before = list_checkpoints(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-1000])
    assert newest_loadable(tmp_path / "checkpoints") == before
    assert newest.name in caplog.text
    assert_same(training_state(train_to_end(run)), whole_runs["duplex"])


def test_damage_inside_a_checkpoint_is_found(toy: Path, tmp_path: Path) -> None:
    run = RUNS["duplex"](toy, tmp_path, "optim.total_steps=1")
    train_to_end(run)
    path = checkpoint_path(tmp_path / "checkpoints", 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_checkpoint(path)
    assert newest_loadable(tmp_path / "checkpoints") is None


def test_the_config_commit_and_versions_lie_beside_every_checkpoint(toy: Path, tmp_path: Path) -> None:
    run = RUNS["codec"](toy, tmp_path)
    train_to_end(run)
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert [path.stem for path in kept] == ["step-00000007", "step-00000006"]
    for path in kept:
        about = json.loads(path.with_suffix(".json").read_text())
        assert about["config"]["optim"]["total_steps"] == TOTAL_STEPS
        assert about["versions"]["torch"] and "commit" in about
    assert sorted(path.suffix for path in (tmp_path / "checkpoints").iterdir()) == [".ckpt", ".ckpt", ".json", ".json"]
