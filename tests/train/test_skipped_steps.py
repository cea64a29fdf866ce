"""A loss or gradient that is not finite never moves anything, and too many of them end the run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from s2s.train.run import run_training
from tests.train.toy import RUNS, assert_same, codec_run

KINDS = sorted(RUNS)


class BadSteps(Callback):
    """Makes some steps bad and keeps the state of things around each: weights, averages, moments."""

    def __init__(self, bad: set[int], how: str):
        self.bad, self.how = bad, how
        self.states: list[Any] = []
        self.taken: list[bool] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in self.bad and self.how == "loss":
            if "wav" in batch:
                batch["wav"].fill_(torch.nan)
            else:
                module.loss_of = module.losses
                module.losses = lambda batch: {"agent": torch.nan * sum(module.loss_of(batch).values())}
        self.states.append(self.state(trainer, module))

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        if trainer.fit_loop.batch_idx in self.bad and self.how == "gradient":
            next(p for p in module.parameters() if p.grad is not None).grad.view(-1)[0] = torch.inf

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self.taken.append(module.step_taken)
        module.__dict__.pop("losses", None)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.states.append(self.state(trainer, module))

    def state(self, trainer: Any, module: Any) -> Any:
        average = next(c for c in trainer.callbacks if type(c).__name__ == "Ema").average
        parts = [module.state_dict(), average.state_dict(), [o.state_dict()["state"] for o in trainer.optimizers]]
        return torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_bad_step_moves_nothing(kind: str, how: str, toy: Path, tmp_path: Path) -> None:
    # Without judges: they are networks of their own, with steps of their own.
    more = ["optim.adversarial_from=null"] if kind == "codec" else []
    watch = BadSteps({2}, how)
    run_training(RUNS[kind](toy, tmp_path, "optim.total_steps=4", *more), [watch])
    assert watch.taken[:4] == [True, True, False, True]
    assert_same(watch.states[2], watch.states[3])
    with pytest.raises(AssertionError, match="differs"):
        assert_same(watch.states[3][:2], watch.states[4][:2])
    assert all(torch.isfinite(value.float()).all() for value in watch.states[-1][0].values())


def test_judges_do_not_learn_from_a_bad_step(toy: Path, tmp_path: Path) -> None:
    watch = BadSteps({1}, "loss")
    run_training(codec_run(toy, tmp_path, "optim.total_steps=3", "optim.adversarial_from=0"), [watch])
    assert_same(watch.states[1], watch.states[2])


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_bad_steps_end_the_run(kind: str, toy: Path, tmp_path: Path) -> None:
    watch = BadSteps(set(range(100)), "gradient" if kind == "duplex" else "loss")
    with pytest.raises(RuntimeError, match="not finite in 3 steps, allowed are 2"):
        run_training(RUNS[kind](toy, tmp_path, "optim.max_skipped_steps=2"), [watch])
