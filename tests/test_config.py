"""Strict configs: what goes out comes back, and every error names the key and what is allowed."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from s2s.config import config_hash, from_dict, to_dict


@dataclass(frozen=True)
class Layer:
    width: int
    dropout: float = 0.0
    kind: Literal["conv", "attention"] = "conv"
    scale: int | None = None

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be positive, got {self.width}")


@dataclass(frozen=True)
class Model:
    name: str
    layers: tuple[Layer, ...] = ()
    delays: tuple[int, int] = (0, 1)
    weights: dict[str, float] = field(default_factory=dict)
    causal: bool = True
    anything: Any = None


FULL = {
    "name": "tiny",
    "layers": [{"width": 4, "dropout": 0.5, "kind": "attention", "scale": 2}],
    "delays": [2, 3],
    "weights": {"agent": 1.5},
    "causal": False,
    "anything": {"a": [1, None]},
}


def test_round_trip() -> None:
    model = from_dict(Model, FULL)
    assert model == Model("tiny", (Layer(4, 0.5, "attention", 2),), (2, 3), {"agent": 1.5}, False, {"a": [1, None]})
    assert to_dict(model) == FULL
    assert from_dict(Model, to_dict(model)) == model


def test_missing_keys_take_their_defaults() -> None:
    assert from_dict(Model, {"name": "x"}) == Model("x")


def test_int_becomes_float_where_float_is_asked() -> None:
    dropout = from_dict(Layer, {"width": 1, "dropout": 1}).dropout
    assert dropout == 1.0
    assert isinstance(dropout, float)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lyers": []}, ["lyers", "unknown key", "did you mean 'layers'", "causal"]),
        ({"layers": [{"width": 1, "widht": 2}]}, ["layers[0].widht", "did you mean 'width'"]),
        ({"layers": [{}]}, ["layers[0].width", "missing key", "Layer"]),
        ({"layers": [{"width": "4"}]}, ["layers[0].width", "expected int", "'4'"]),
        ({"layers": [{"width": True}]}, ["layers[0].width", "expected int", "True"]),
        ({"layers": [{"width": 1.5}]}, ["layers[0].width", "expected int", "1.5"]),
        ({"layers": [{"width": 0}]}, ["layers[0]", "width must be positive", "0"]),
        ({"layers": [{"width": 1, "kind": "atention"}]}, ["layers[0].kind", "'conv'", "did you mean 'attention'"]),
        ({"layers": [{"width": 1, "kind": []}]}, ["layers[0].kind", "'conv'"]),
        ({"layers": [{"width": 1, "scale": "2"}]}, ["layers[0].scale", "expected int"]),
        ({"layers": {"width": 1}}, ["layers", "expected a list"]),
        ({"layers": [3]}, ["layers[0]", "expected a mapping (Layer)", "3"]),
        ({"delays": [1, 2, 3]}, ["delays", "needs 2 items, got 3"]),
        ({"weights": {"agent": None}}, ["weights.agent", "expected float", "None"]),
        ({"weights": {1: 1.0}}, ["weights.1", "expected str"]),
        ({"weights": {"agent": 10**400}}, ["weights.agent", "too large"]),
        ({"causal": 1}, ["causal", "expected bool", "1"]),
        ({"name": None}, ["name", "expected str", "None"]),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the words below are the match
        from_dict(Model, FULL | change)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_the_root_itself_must_be_a_mapping() -> None:
    with pytest.raises(ValueError, match="Model: expected a mapping"):
        from_dict(Model, [1])  # type: ignore[arg-type]


def test_to_dict_refuses_what_is_not_plain() -> None:
    with pytest.raises(ValueError, match="scalars, lists, dicts"):
        to_dict(Model("x", anything=object()))


def test_hash_depends_on_values_only() -> None:
    reordered = dict(reversed(FULL.items()))
    assert config_hash(from_dict(Model, FULL)) == config_hash(from_dict(Model, reordered))
    assert config_hash(Layer(1, dropout=1)) == config_hash(Layer(1, dropout=1.0))
    assert config_hash(Layer(1)) != config_hash(Layer(2))
    assert config_hash(Layer(1)) == "71ba511db13e"  # stable between versions
