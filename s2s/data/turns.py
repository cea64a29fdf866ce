"""Single turns: what a caller says and the beginning of the reply, for a model that begins to understand callers.

A call is half silence and replies. Cut to its first turn, an hour of audio shows a model three times as many
utterances.
"""

from __future__ import annotations

from dataclasses import replace

from s2s.data.dialogues import DialogueSource
from s2s.data.schema import Dialogue


def first_turn(call: Dialogue, reply_s: float, frame_size: int) -> Dialogue:
    """The call up to `reply_s` seconds into its first reply, ended on a frame boundary.

    A reply that reads digits back or ends in an action is kept whole: these are what there is to learn. Raises
    ValueError for a call whose meta names no turns.
    """
    if not call.meta.get("turns"):
        raise ValueError(f"call {call.id} names no turns in its meta, so there is nothing to cut")
    turn = call.meta["turns"][0]
    end_s = turn["reply_end_s"] if turn["digits"] or turn.get("action") else turn["reply_start_s"] + reply_s
    end = min(call.num_samples, round(end_s * call.sample_rate)) // frame_size * frame_size
    meta = call.meta | {"turns": [turn]}
    user_words, agent_words = (
        [word for word in words if word.start_s * call.sample_rate < end]
        for words in (call.user_words, call.agent_words)
    )
    return replace(
        call, user=call.user[:end], agent=call.agent[:end], user_words=user_words, agent_words=agent_words, meta=meta,
        actions=[action for action in call.actions if action.at_s * call.sample_rate < end],
    )  # fmt: skip


class SingleTurns:
    """The first turns of the calls of a source."""

    def __init__(self, calls: DialogueSource, frame_size: int, reply_s: float = 1.2) -> None:
        self.name = f"{calls.name}, first turns, {reply_s} s of the reply"
        self._calls, self._frame_size, self._reply_s = calls, frame_size, reply_s

    def __len__(self) -> int:
        return len(self._calls)

    def row_id(self, index: int) -> str:
        return self._calls.row_id(index)

    def __getitem__(self, index: int) -> Dialogue:
        return first_turn(self._calls[index], self._reply_s, self._frame_size)
