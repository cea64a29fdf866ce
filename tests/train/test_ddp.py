"""Two processes train on the same samples as one and learn the same."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from s2s.train.run import run_training
from tests.train.toy import duplex_run

# Nothing drawn at random: processes draw different numbers for different rows.
MORE = ["data.batch_size=4", "optim.total_steps=4", "callbacks.save_every=100"]
MORE += [
    "optim.history_noise=0.0",
    "optim.hidden_transcripts=0.0",
    "optim.hidden_voice=0.0",
    "optim.masked_share=0.0",
    "optim.level_dropout=0.0",
    "optim.silent_share=1.0",
    "optim.speaking_share=1.0",
]


class Record(Callback):
    """The rows of every batch, and the loss over all processes."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(batch["rows"].tolist())
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")))


def test_two_processes_are_one(toy: Path, tmp_path: Path) -> None:
    alone = Record()
    run_training(duplex_run(toy, tmp_path / "one", *MORE), [alone])
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
            import json, os, sys, torch
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parents[2])!r})
            from s2s.train.run import run_training
            from tests.train.test_ddp import MORE, Record
            from tests.train.toy import duplex_run
            torch.set_num_threads(1)
            record = Record()
            folder = Path({str(tmp_path)!r})
            run_training(duplex_run(Path({str(toy)!r}), folder / "two", *MORE, "trainer.processes=2"), [record])
            (folder / f"rank{{os.environ['RANK']}}.json").write_text(json.dumps([record.rows, record.losses]))
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (rows_0, losses), (rows_1, _) = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert [sorted(a + b) for a, b in zip(rows_0, rows_1)] == [sorted(rows) for rows in alone.rows]
    assert all(not set(a) & set(b) for a, b in zip(rows_0, rows_1))
    assert max(abs(a - b) for a, b in zip(losses, alone.losses)) < 1e-3
    assert losses[0] != losses[-1]
