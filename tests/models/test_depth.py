"""The depth transformer: sampling codebook by codebook is teacher forcing with its own choices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s2s.models.depth import DepthConfig, DepthTransformer
from s2s.nn.sampling import Controls, uniform_draws
from tests.tiny import same_controls, stirred

V, TABLE, D = 9, 11, 10


def depth(num_codebooks: int = 4, per_step_weights: bool = False) -> DepthTransformer:
    config = DepthConfig(12, 2, 3, 16, code_width=5, per_step_weights=per_step_weights)
    return stirred(DepthTransformer(config, D, num_codebooks, V, TABLE))


def sampled_logits(model: DepthTransformer, *arguments: Tensor | Controls) -> tuple[Tensor, Tensor]:
    """Codes [B, K] of `sample` and the logits [B, K, V] they were drawn from."""
    logits: list[Tensor] = []
    hook = model.heads.register_forward_hook(lambda module, inputs, output: logits.append(output))
    with torch.no_grad():
        codes = model.sample(*arguments)  # type: ignore[arg-type]
    hook.remove()
    return codes, torch.stack(logits, dim=1)


@pytest.mark.parametrize("per_step_weights", [False, True])
@pytest.mark.parametrize("num_codebooks", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_equals_teacher_forcing(num_codebooks: int, per_step_weights: bool, temperature: float) -> None:
    model, hidden = depth(num_codebooks, per_step_weights), torch.randn(6, D)
    controls, draws = same_controls(6, temperature), uniform_draws(torch.arange(6), torch.zeros(6), num_codebooks)
    codes, live = sampled_logits(model, hidden, controls, draws)
    assert codes.shape == (6, num_codebooks) and codes.max() < V
    with torch.no_grad():
        forced = model(hidden, codes)
    assert forced.shape == (6, num_codebooks, V)
    torch.testing.assert_close(live, forced, rtol=0, atol=1e-5)
    if not temperature:
        assert torch.equal(forced.argmax(dim=-1), codes)
    assert len(codes.unique(dim=0)) > 1


@pytest.mark.parametrize("per_step_weights", [False, True])
def test_forced_codes_are_taken_and_the_others_follow(per_step_weights: bool) -> None:
    model, hidden = depth(4, per_step_weights), torch.randn(3, D)
    forced = torch.tensor([[-1, -1, -1, -1], [-1, TABLE - 2, -1, -1], [3, -1, -1, 0]])
    controls, draws = same_controls(3), torch.full((3, 4), 0.5)
    codes, live = sampled_logits(model, hidden, controls, draws, forced)
    assert torch.equal(torch.where(forced >= 0, codes, -1), forced)
    with torch.no_grad():
        expected = model(hidden, codes)
        free = model.sample(hidden, controls, draws)
    torch.testing.assert_close(live, expected, rtol=0, atol=1e-5)
    assert torch.equal(codes[0], free[0])
    assert torch.equal(torch.where(forced < 0, expected.argmax(dim=-1), codes), codes)


def test_a_codebook_sees_the_ones_before_it_and_the_hidden_vector() -> None:
    model, hidden, codes = depth(), torch.randn(1, D), torch.randint(V, (1, 4))
    with torch.no_grad():
        before = model(hidden, codes)
        assert (model(hidden + 1, codes) != before).any(dim=-1).all()
        for k in range(4):
            other = codes.clone()
            other[0, k] = (codes[0, k] + 1) % V
            changed = (model(hidden, other) != before).any(dim=-1)[0].tolist()
            assert changed == [False] * (k + 1) + [True] * (3 - k)


def test_a_code_means_something_else_in_each_codebook() -> None:
    model, hidden = depth(), torch.randn(1, D)
    gradient = torch.autograd.grad(
        model(hidden, torch.zeros(1, 4, dtype=torch.long)).square().sum(), model.codes.weight
    )[0]
    assert gradient.abs().amax(dim=-1).nonzero().flatten().tolist() == [0, TABLE, 2 * TABLE]


def test_rows_are_sampled_by_themselves() -> None:
    model, hidden = depth(), torch.randn(5, D)
    controls = Controls(torch.tensor([0.0, 1, 1, 2, 0.5]), torch.tensor([0, 0, 3, 0, 2]), torch.arange(5))
    draws = uniform_draws(controls.seed, torch.zeros(5), 4)
    with torch.no_grad():
        codes = model.sample(hidden, controls, draws)
        other = torch.where(torch.arange(5)[:, None] == 2, hidden, torch.randn(5, D))
        assert torch.equal(model.sample(other, controls, draws)[2], codes[2])
        assert torch.equal(model.sample(hidden, controls, draws), codes)


def test_weights_per_step_are_weights_per_step() -> None:
    shared, own = depth(4, False), depth(4, True)
    for name, parameter in own.layers.named_parameters():
        ours = dict(shared.layers.named_parameters())[name]
        assert parameter.numel() == (4 if parameter.dim() == 3 else 1) * ours.numel()
    # With the same weights in every step the two are the same model.
    own.load_state_dict(
        {name: value.expand_as(dict(own.named_parameters())[name]).clone() for name, value in shared.named_parameters()}
    )
    hidden, codes = torch.randn(3, D), torch.randint(V, (3, 4))
    with torch.no_grad():
        torch.testing.assert_close(own(hidden, codes), shared(hidden, codes), rtol=0, atol=1e-5)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"codes have the shape \[2, 5\], expected \[2, 4\]"):
        depth()(torch.zeros(2, D), torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="depth width 10 is not a multiple of num_heads 3"):
        DepthConfig(10, 1, 3)
