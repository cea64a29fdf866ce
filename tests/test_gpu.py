"""What a GPU has to give, where there is one: the same as the CPU, in steps, in an engine and in training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from s2s.checkpoint import Bundle, random_bundle
from s2s.engine.engine import Engine, EngineConfig
from s2s.engine.session import Audio, SessionConfig
from s2s.models.graphed import GraphedStep
from s2s.nn.attention import Attention, attention_positions
from s2s.nn.norm import RMSNorm
from s2s.nn.sampling import Controls
from s2s.streaming import leaves
from s2s.train.module import DuplexModule
from s2s.train.objective import DuplexTrainConfig
from tests.tiny import stirred, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROWS, STEPS = 5, 24


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return random_bundle(3).to("cuda")


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def frames(step_size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (0.1 * torch.randn(STEPS, ROWS, 1, step_size, generator=generator)).cuda()


def test_a_norm_is_that_of_the_cpu() -> None:
    norm, x = stirred(RMSNorm(24)), torch.randn(3, 7, 24)
    assert torch.allclose(norm.cuda()(x.cuda()).cpu(), norm.cpu()(x), atol=1e-5)


@pytest.mark.parametrize("length", [5, 12])
def test_attention_within_and_beyond_its_window_is_that_of_the_cpu(length: int) -> None:
    attention, x = stirred(Attention(24, 6, 2, window=8)), torch.randn(2, length, 24)
    found = []
    for device in ("cpu", "cuda"):
        there = x.to(device)
        found.append(attention.to(device)(there, attention_positions(None, there, 8, 4, 10000.0)).detach().cpu())
    assert torch.allclose(*found, atol=1e-5)


def test_a_graphed_step_gives_what_the_step_gives(bundle: Bundle) -> None:
    exact, graphed = bundle.step("exact"), bundle.step("traced")
    assert isinstance(graphed, GraphedStep)
    temperature = torch.tensor([0.0, 0.8, 0.0, 0.5, 1.0], device="cuda")
    controls = Controls(temperature, torch.full((ROWS,), 20, device="cuda"), torch.arange(ROWS, device="cuda"))
    states = [step.init_state(ROWS) for step in (exact, graphed)]
    for wav in frames(exact.step_size):
        outs = [step(wav, state, controls) for step, state in zip((exact, graphed), states, strict=True)]
        assert torch.equal(outs[0].wav, outs[1].wav)
        assert all(torch.equal(outs[0].text[name], outs[1].text[name]) for name in outs[0].text)
    assert len(graphed._graphs) == 1, "it was not a graph that ran"
    assert all(torch.equal(a, b) for a, b in zip(*map(leaves, states), strict=True))


def test_rows_of_an_engine_are_graphed_before_the_first_call(bundle: Bundle) -> None:
    engine = Engine.of(bundle, EngineConfig(3, clock="virtual"))
    engine.warm_up()
    step = engine._step
    assert isinstance(step, GraphedStep)
    made = len(step._graphs)
    assert made == 3, "one for each of 1, 2 and 3 rows"
    alone = speak(engine, 1)[0]
    together = speak(engine, 3)
    assert len(step._graphs) == made
    assert alone.shape == together[0].shape and np.abs(together[0]).max() > 0
    engine.stop()


def speak(engine: Engine, count: int) -> list[np.ndarray]:
    """What the agents of so many callers say in a while."""
    sessions = [engine.open(SessionConfig(seed=7)) for _ in range(count)]
    said: list[list[np.ndarray]] = [[] for _ in sessions]
    for _ in range(6):
        for session in sessions:
            session.push(np.zeros(engine.step_size, np.int16))
        engine.tick()
        for session, parts in zip(sessions, said, strict=True):
            parts += [event.pcm for event in session.pull() if isinstance(event, Audio)]
    for session in sessions:
        session.close()
    return [np.concatenate(parts) for parts in said]


def test_losses_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    model = tiny_model(ahead=True, talker=True, talker_keeps_time=True)
    module, layout, shape = DuplexModule(DuplexTrainConfig(model.config)).eval(), model.layout, (3, 20)
    module.model.load_state_dict(model.state_dict())
    batch = {s.name: torch.randint(s.vocab_size, (3, s.num_rows, 20)) for s in layout.streams}
    batch |= {"agent_stopped": torch.rand(shape) < 0.1}
    batch |= {"agent_active": torch.rand(shape) < 0.5, "lengths": torch.tensor([20, 17, 9]), "waits": torch.ones(3) > 0}
    expected = module.losses(batch)
    found = module.cuda().losses({name: value.cuda() for name, value in batch.items()})
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-3), name
