"""Weights on disk: the three formats, their errors and their sizes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2s.weights import WeightsError, mean_weights, read_weights, weight_sizes, write_weights


def tensors() -> dict[str, Tensor]:
    return {
        "linear": torch.randn(6, 40),
        "stepped": torch.randn(3, 5, 20) * torch.tensor([1.0, 10.0, 100.0])[:, None, None],
        "depthwise": torch.randn(8, 1, 7),
        "dense": torch.randn(4, 3, 7),
        "codebooks": torch.randn(2, 9, 16),
        "bias": torch.randn(6),
    }


@pytest.mark.parametrize(("weight_format", "bound"), [("float32", 0.0), ("float16", 5e-4), ("int8", 4.1e-3)])
def test_values_come_back(tmp_path: Path, weight_format: str, bound: float) -> None:
    stored = tensors()
    write_weights(tmp_path / "w.safetensors", stored, weight_format)  # type: ignore[arg-type]
    back = read_weights(tmp_path / "w.safetensors", stored)
    assert list(back) == list(stored)
    for name, value in stored.items():
        # Rounding is half a step of 1/127 of the largest value in the row.
        others = tuple(range(1, value.dim()))
        rows = value.abs().amax(dim=others, keepdim=True) if others else value.abs().max()
        assert ((back[name] - value).abs() <= bound * rows + 1e-7).all(), name
        assert back[name].dtype == torch.float32


def test_int8_keeps_what_must_be_fine(tmp_path: Path) -> None:
    stored = tensors()
    write_weights(tmp_path / "w.safetensors", stored, "int8", lambda name: name == "codebooks")
    on_disk = load_file(tmp_path / "w.safetensors")
    kinds = {name: on_disk[name].dtype for name in stored}
    assert kinds.pop("codebooks") == torch.float16
    assert kinds.pop("bias") == torch.float32
    assert set(kinds.values()) == {torch.int8}
    # One scale per row of each matrix where that is enough values, else per output channel.
    scales = {name: list(value.shape) for name, value in on_disk.items() if name.endswith("::scale")}
    assert scales == {
        "linear::scale": [6, 1],
        "stepped::scale": [3, 5, 1],
        "depthwise::scale": [8, 1, 1],
        "dense::scale": [4, 1, 1],
    }


def test_storing_eight_bits_twice_loses_nothing_more(tmp_path: Path) -> None:
    stored = {"linear": torch.randn(6, 40)}
    write_weights(tmp_path / "1.safetensors", stored, "int8")
    once = read_weights(tmp_path / "1.safetensors", stored)
    write_weights(tmp_path / "2.safetensors", once, "int8")
    torch.testing.assert_close(read_weights(tmp_path / "2.safetensors", stored), once, rtol=1e-6, atol=0)


def test_halves_that_would_overflow_stay_whole(tmp_path: Path) -> None:
    stored = {"large": torch.full((2, 3), 1e5)}
    write_weights(tmp_path / "w.safetensors", stored, "float16")
    assert torch.equal(read_weights(tmp_path / "w.safetensors", stored)["large"], stored["large"])


def test_zeros_stay_zeros(tmp_path: Path) -> None:
    stored = {"zero": torch.zeros(3, 20)}
    write_weights(tmp_path / "w.safetensors", stored, "int8")
    assert not read_weights(tmp_path / "w.safetensors", stored)["zero"].any()


def test_an_unknown_format_and_nan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'int4' is unknown, allowed are float32, float16, int8"):
        write_weights(tmp_path / "w", {}, "int4")  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="bias holds NaN"):
        write_weights(tmp_path / "w", {"bias": torch.tensor([float("nan")])}, "float32")


def test_sizes_come_from_the_header(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", {"a": torch.zeros(2, 3), "b": torch.zeros(())}, "float32")
    assert weight_sizes(tmp_path / "w.safetensors") == {"a": 6, "b": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(2, 3)}, "missing tensor b"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1)}, "unknown tensor c"),
        ({"a": torch.zeros(3, 2), "b": torch.zeros(4)}, r"a has the shape \[3, 2\], expected \[2, 3\]"),
        ({"a": torch.zeros(2, 3, dtype=torch.long), "b": torch.zeros(4)}, "a is I64, allowed are F32"),
        ({"a": torch.zeros(2, 3, dtype=torch.int8), "b": torch.zeros(4)}, "8-bit values, and only those, come with"),
        ({"a": torch.zeros(2, 3), "a::scale": torch.ones(2, 1), "b": torch.zeros(4)}, "8-bit values, and only those"),
        ({"a::scale": torch.ones(2, 1), "b": torch.zeros(4)}, "a has a scale but no values"),
        (
            {"a": torch.zeros(2, 3, dtype=torch.int8), "a::scale": torch.ones(3), "b": torch.zeros(4)},
            r"a::scale is torch.float32 \[3\], expected torch.float32 \[2, 1\]",
        ),
        ({"a": torch.full((2, 3), float("inf")), "b": torch.zeros(4)}, "a holds NaN or infinity"),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.int8), "b::scale": torch.ones(1)}, "b::scale is"),
    ],
)
def test_swapped_tensors_are_named(tmp_path: Path, content: dict[str, Tensor], message: str) -> None:
    save_file(content, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "w.safetensors", {"a": torch.zeros(2, 3), "b": torch.zeros(4)})


def test_the_mean_of_models_of_one_shape() -> None:
    several = [{"a": torch.full((2, 3), value), "count": torch.tensor(7)} for value in (1.0, 2.0, 6.0)]
    mean = mean_weights(several)
    assert torch.equal(mean["a"], torch.full((2, 3), 3.0)) and mean["count"] == 7
    for other in ({"a": torch.zeros(3, 2), "count": torch.tensor(7)}, {"b": torch.zeros(2, 3)}):
        with pytest.raises(WeightsError, match="models of other shapes have no mean: a"):
            mean_weights([several[0], other])
