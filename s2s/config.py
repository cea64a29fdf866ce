"""Strict conversion between nested frozen dataclasses and plain dicts: a schema is the dataclass, written once.

Every error names the path of the key (`model.backbone.num_heads`), the value found and what is allowed there.
"""

import dataclasses
import difflib
import hashlib
import json
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_SCALARS = (bool, int, float, str)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain dicts, lists and scalars, ready for JSON or YAML; tuples become lists."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"to_dict takes a dataclass instance, got {config!r}")
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def from_dict(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build the dataclass `cls` from plain dicts, lists and scalars.

    A missing key takes the field's default. Raises ValueError for an unknown key (naming the nearest valid one), a
    missing key without default, a value of the wrong type, and whatever `__post_init__` refuses.
    """
    return _build(cls, data, path="")


def config_hash(config: Any) -> str:
    """Return 12 hex digits that depend on the values of a dataclass only, not on key order or on 1 against 1.0."""
    canonical = to_dict(from_dict(type(config), to_dict(config)))
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, _SCALARS):
        return value
    raise ValueError(f"a config holds scalars, lists, dicts and dataclasses only, got {value!r}")


def _build(cls: type[T], data: Any, path: str) -> T:
    """Build the dataclass `cls`; `path` is where `data` stands in the whole config, empty at the root."""
    assert dataclasses.is_dataclass(cls), f"{cls} is not a dataclass"
    if not isinstance(data, Mapping):
        raise _wrong(path or cls.__name__, data, f"a mapping ({cls.__name__})")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in data:
        if key not in fields:
            raise ValueError(f"{_join(path, key)}: unknown key{_nearest(key, list(fields))}")
    hints = get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], _join(path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_join(path, name)}: missing key, {cls.__name__} needs it")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path or cls.__name__}: {error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Return `value` as the annotated type `hint`, or raise ValueError."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path)  # type: ignore[arg-type]
    if origin is Literal:
        return _convert_literal(get_args(hint), value, path)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, path)
    if origin in (tuple, list):
        return _convert_sequence(origin, get_args(hint), value, path)
    if origin is dict:
        return _convert_dict(get_args(hint), value, path)
    return _convert_scalar(hint, value, path)


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint in (None, type(None)):
        if value is None:
            return None
        raise _wrong(path, value, "null")
    assert hint in _SCALARS, f"{path}: a config field cannot be annotated {hint}"
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 1 << 1000:
            raise ValueError(f"{path}: the number is too large for a float")
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise _wrong(path, value, hint.__name__)


def _convert_literal(allowed: tuple[Any, ...], value: Any, path: str) -> Any:
    for choice in allowed:
        if type(choice) is type(value) and choice == value:
            return choice
    hint = _nearest(value, [choice for choice in allowed if isinstance(choice, str)], label="")
    raise ValueError(f"{path}: got {_short(value)}, allowed are {', '.join(map(repr, allowed))}{hint}")


def _convert_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    concrete = [member for member in members if member is not type(None)]
    if len(concrete) == 1:
        return _convert(concrete[0], value, path)
    # An exact type wins over a conversion: 1 stays an int under `float | int`.
    for member in sorted(concrete, key=lambda member: member is not type(value)):
        try:
            return _convert(member, value, path)
        except ValueError:
            continue
    raise _wrong(path, value, " or ".join(_name(member) for member in members))


def _convert_sequence(origin: type, items: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(path, value, "a list")
    if origin is list or items[-1:] == (Ellipsis,):
        hints = [items[0]] * len(value)
    else:
        hints = list(items)
    if len(hints) != len(value):
        raise ValueError(f"{path}: needs {len(hints)} items, got {len(value)}: {_short(value)}")
    return origin(_convert(hint, item, f"{path}[{index}]") for index, (hint, item) in enumerate(zip(hints, value)))


def _convert_dict(items: tuple[Any, ...], value: Any, path: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, value, "a mapping")
    key_hint, item_hint = items
    return {
        _convert(key_hint, key, f"{path}.{key} (the key)"): _convert(item_hint, item, _join(path, key))
        for key, item in value.items()
    }


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nearest(key: Any, valid: list[str], label: str = "; valid keys are ") -> str:
    """Return the tail of an error message: the nearest valid key, then all of them when `label` is given."""
    close = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
    nearest = f"; did you mean {close[0]!r}?" if close else ""
    return nearest + (f"{label}{', '.join(valid) or 'none'}" if label else "")


def _wrong(path: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{path}: expected {expected}, got {_short(value)} ({type(value).__name__})")
