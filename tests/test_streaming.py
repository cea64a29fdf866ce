"""What can be done to any state, whatever its module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from s2s.streaming import (
    State,
    clone,
    leaves,
    load_state,
    map_leaves,
    move_row,
    named_leaves,
    put_rows,
    reset_rows,
    save_state,
    take_rows,
    view_rows,
)


@dataclass
class Inner:
    memory: Tensor
    count: Tensor


def tree() -> dict[str, State]:
    """Four rows; every value tells its row."""
    row = torch.arange(1, 5)
    return {
        "inner": Inner(row[:, None] * torch.ones(4, 3), row.clone()),
        "list": [row.double(), (row > 0,)],
        "empty": torch.zeros(4, 0),
    }


def rows_of(state: State) -> list[list[int]]:
    """The row that each leaf's values tell, leaf by leaf; 0 where there is none."""
    return [[int(x) for x in leaf.flatten(1)[:, 0]] for leaf in (state["inner"].memory, state["inner"].count[:, None])]


def test_leaves_come_in_order_with_their_names() -> None:
    state = tree()
    names = [name for name, _ in named_leaves(state)]
    assert names == ["inner.memory", "inner.count", "list.0", "list.1.0", "empty"]
    assert all(a is b for a, (_, b) in zip(leaves(state), named_leaves(state), strict=True))
    assert named_leaves(torch.ones(2))[0][0] == "state"


def test_a_mapped_tree_keeps_its_types() -> None:
    mapped = map_leaves(lambda leaf: leaf + leaf, tree())
    assert type(mapped["inner"]) is Inner and type(mapped["list"]) is list and type(mapped["list"][1]) is tuple
    assert torch.equal(mapped["inner"].count, 2 * tree()["inner"].count)


@pytest.mark.parametrize("rows", [[1, 3], slice(1, 4, 2), torch.tensor([1, 3])])
def test_reset_clears_rows_in_place(rows: list[int] | slice | Tensor) -> None:
    state = tree()
    before = leaves(state)
    reset_rows(state, rows)
    assert rows_of(state) == [[1, 0, 3, 0]] * 2
    assert all(a is b for a, b in zip(before, leaves(state), strict=True))


def test_no_rows_are_no_rows() -> None:
    state = tree()
    reset_rows(state, [])
    assert rows_of(state) == [[1, 2, 3, 4]] * 2
    assert rows_of(take_rows(state, [])) == [[], []]


def test_taken_rows_are_copies_in_the_given_order() -> None:
    state = tree()
    for rows in ([2, 0], torch.tensor([2, 0])):
        taken = take_rows(state, rows)
        assert rows_of(taken) == [[3, 1]] * 2
        reset_rows(taken, slice(None))
    part = take_rows(state, slice(1, 3))
    reset_rows(part, slice(None))
    assert rows_of(state) == [[1, 2, 3, 4]] * 2


def test_put_and_move_copy_into_the_state() -> None:
    state = tree()
    put_rows(state, [3, 1], take_rows(state, [0, 2]))
    assert rows_of(state) == [[1, 3, 3, 1]] * 2
    move_row(state, 0, 2)
    assert rows_of(state) == [[1, 3, 1, 1]] * 2


def test_put_refuses_a_state_of_another_module() -> None:
    state, other = tree(), take_rows(tree(), [3])
    other["list"][0] = torch.ones(1)
    for source in (other, {"inner": other["inner"]}):
        with pytest.raises(ValueError, match="cannot put rows of"):
            put_rows(state, [0], source)
    assert rows_of(state) == [[1, 2, 3, 4]] * 2


def test_a_clone_shares_nothing() -> None:
    state = tree()
    copied = clone(state)
    reset_rows(state, slice(None))
    assert rows_of(copied) == [[1, 2, 3, 4]] * 2


def test_a_view_of_rows_writes_through() -> None:
    state = tree()
    reset_rows(view_rows(state, 2), slice(None))
    assert rows_of(state) == [[0, 0, 3, 4]] * 2


def test_a_file_brings_back_every_leaf(tmp_path: Path) -> None:
    state, path = tree(), tmp_path / "state"
    save_state(view_rows(state, 3), path)
    like = map_leaves(torch.zeros_like, take_rows(state, slice(3)))
    loaded = load_state(path, like)
    assert rows_of(loaded) == [[1, 2, 3]] * 2
    assert [leaf.dtype for leaf in leaves(loaded)] == [leaf.dtype for leaf in leaves(state)]
    assert not any(leaf.any() for leaf in leaves(like))


def test_a_file_of_another_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(tree(), path)
    with pytest.raises(ValueError, match=r"holds the leaves \['empty', .*expected \['memory'\]"):
        load_state(path, {"memory": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"inner.memory is torch.float32 \[4, 3\], expected torch.float32 \[2, 3\]"):
        load_state(path, take_rows(tree(), [0, 1]))
    other = tree()
    other["inner"].count = other["inner"].count.int()
    with pytest.raises(ValueError, match=r"inner.count is torch.int64 \[4\], expected torch.int32 \[4\]"):
        load_state(path, other)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="is not a saved state"):
        load_state(path, tree())


def test_only_tensors_are_leaves() -> None:
    with pytest.raises(TypeError, match="not int"):
        leaves({"position": 3})
    with pytest.raises(TypeError, match="not int"):
        map_leaves(torch.zeros_like, [torch.ones(1), 3])
