"""State: what a streaming module remembers of each row between calls, and what can be done to it.

A state is a tree of dataclasses, dicts, lists and tuples whose leaves are tensors, or None for a part that a module
does not have; dim 0 of every leaf is the row and one row is one conversation. Modules follow six laws, checked for all
of them by `tests/test_streaming_contract.py`:

1. `state=None` means a fresh state for a whole sequence, thrown away afterwards.
2. Leaves are tensors; dim 0 is the row; positions are one number per row.
3. All zeros is fresh.
4. Shapes, dtypes and addresses never change after `init_state`; updates are in place and carry no gradient.
5. A module touches only the rows it is given and never mixes rows.
6. A module does not know why a row is there.

Because of these, everything below is written once for every module there will ever be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = Any
"""A tree of dataclasses, dicts, lists and tuples with tensor leaves."""

Rows = Tensor | Sequence[int] | slice


def named_leaves(state: State, prefix: str = "") -> list[tuple[str, Tensor]]:
    """All leaves with dotted names, in a fixed order."""
    return list(_walk(state, prefix))


def leaves(state: State) -> list[Tensor]:
    """All leaves in a fixed order."""
    return [leaf for _, leaf in _walk(state, "")]


def rewritten_leaves(state: State) -> list[Tensor]:
    """The leaves of all dataclasses with a class attribute `REWRITTEN`, in a fixed order.

    What a single step writes there is read by no other step at the same position, which writes it anew first: to take a
    step back they may be left as they are.
    """
    if dataclasses.is_dataclass(state) and getattr(state, "REWRITTEN", False):
        return leaves(state)
    return [leaf for _, child in _children(state, "") for leaf in rewritten_leaves(child)]


def map_leaves(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The same tree with `function` applied to every leaf."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        fields = {f.name: map_leaves(function, getattr(state, f.name)) for f in dataclasses.fields(state)}
        return type(state)(**fields)
    if isinstance(state, dict):
        return {key: map_leaves(function, value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map_leaves(function, value) for value in state)
    raise TypeError(f"a state holds tensors, dataclasses, dicts, lists and tuples, not {type(state).__name__}")


@torch.no_grad()
def reset_rows(state: State, rows: Rows) -> None:
    """Make the given rows fresh, in place."""
    for leaf in leaves(state):
        leaf[_index(rows, leaf)] = 0


@torch.no_grad()
def take_rows(state: State, rows: Rows) -> State:
    """A new state that holds copies of the given rows, in the given order."""
    return map_leaves(lambda leaf: leaf[_index(rows, leaf)].clone(), state)


@torch.no_grad()
def put_rows(state: State, rows: Rows, source: State) -> None:
    """Copy `source`, a state of len(rows) rows, into the given rows, in place.

    Raises:
        ValueError: the two states are not of the same module; nothing is copied then.
    """
    ours, theirs = ([(n, x.dtype, x.shape[1:]) for n, x in named_leaves(s)] for s in (state, source))
    if ours != theirs:
        raise ValueError(f"cannot put rows of {theirs} into {ours}")
    for leaf, new in zip(leaves(state), leaves(source), strict=True):
        leaf[_index(rows, leaf)] = new


@torch.no_grad()
def move_row(state: State, source: int, target: int) -> None:
    """Copy row `source` over row `target`, in place."""
    for leaf in leaves(state):
        leaf[target].copy_(leaf[source])


def clone(state: State) -> State:
    """A deep copy."""
    return map_leaves(lambda leaf: leaf.detach().clone(), state)


def view_rows(state: State, num_rows: int) -> State:
    """The first rows as views: updates made through the result land in `state`."""
    return map_leaves(lambda leaf: leaf[:num_rows], state)


def save_state(state: State, path: str | Path) -> None:
    """Write a state to a safetensors file."""
    from safetensors.torch import save_file

    save_file({name: leaf.contiguous() for name, leaf in named_leaves(state)}, str(path))


def load_state(path: str | Path, like: State) -> State:
    """Read a state written by `save_state` into the tree of `like`, which stays as it is.

    Raises:
        ValueError: the file is no safetensors file, or holds other leaves, shapes or dtypes than `like`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a saved state: {error}") from error
    state = clone(like)
    expected = named_leaves(state)
    if {name for name, _ in expected} != set(tensors):
        raise ValueError(f"{path} holds the leaves {sorted(tensors)}, expected {sorted(n for n, _ in expected)}")
    for name, leaf in expected:
        new = tensors[name]
        if new.shape != leaf.shape or new.dtype != leaf.dtype:
            raise ValueError(
                f"{path}: {name} is {new.dtype} {list(new.shape)}, expected {leaf.dtype} {list(leaf.shape)}"
            )
        leaf.copy_(new)
    return state


def _walk(state: State, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name or "state", state
        return
    for key, value in _children(state, name):
        yield from _walk(value, key)


def _children(state: State, name: str) -> Iterator[tuple[str, State]]:
    """The named parts of a state; none of None and of a leaf."""
    if state is None or isinstance(state, Tensor):
        return
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        children = [(f.name, getattr(state, f.name)) for f in dataclasses.fields(state)]
    elif isinstance(state, dict):
        children = list(state.items())
    elif isinstance(state, (list, tuple)):
        children = [(str(i), value) for i, value in enumerate(state)]
    else:
        raise TypeError(f"a state holds tensors, dataclasses, dicts, lists and tuples, not {type(state).__name__}")
    for key, value in children:
        yield (f"{name}.{key}" if name else str(key)), value


def _index(rows: Rows, leaf: Tensor) -> Tensor | slice:
    if isinstance(rows, slice):
        return rows
    return torch.as_tensor(rows, dtype=torch.long, device=leaf.device)
