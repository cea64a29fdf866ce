"""The history of a Realtime call: items in order, what was said in them, cut to what was played."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from s2s.gateway.messages import ProtocolError, new_id


@dataclass
class Answer:
    """The agent's answer that is going on: its texts with their times, and the audio sent."""

    id: str = field(default_factory=lambda: new_id("resp"))
    item_id: str = field(default_factory=lambda: new_id("item"))
    text_only: bool = False
    metadata: dict[str, str] | None = None
    texts: list[tuple[str, int]] = field(default_factory=list)
    sent_ms: int = 0
    opened: bool = False  # the client knows of its item
    before_id: str | None = None  # the item before

    def text(self, until_ms: int | None = None) -> str:
        """What was said, or had been by `until_ms`."""
        return "".join(text for text, at_ms in self.texts if until_ms is None or at_ms < until_ms)


class Conversation:
    """Items by id, oldest first; limited in size, the oldest go."""

    def __init__(self, max_bytes: int):
        self.id = new_id("conv")
        self._max_bytes = max_bytes
        self._items: dict[str, dict[str, Any]] = {}
        self._sizes: dict[str, int] = {}
        self._answers: dict[str, Answer] = {}  # by item

    @property
    def last_id(self) -> str | None:
        return next(reversed(self._items), None)

    def get(self, item_id: str, event_id: str | None = None) -> dict[str, Any]:
        if item_id not in self._items:
            raise ProtocolError("item_not_found", f"there is no item {item_id!r}", "item_id", event_id)
        return self._items[item_id]

    def add(self, item: dict[str, Any], previous_id: str | None = None, event_id: str | None = None) -> str | None:
        """Insert after `previous_id` ("root": first, None: last); the id of the item before it."""
        item_id = item["id"]
        if item_id in self._items:
            raise ProtocolError("item_already_exists", f"there is an item {item_id!r}", "item.id", event_id)
        before: str | None
        if previous_id == "root":
            before = None
            self._items = {item_id: item, **self._items}
        elif previous_id is None:
            before = self.last_id
            self._items[item_id] = item
        else:
            self.get(previous_id, event_id)
            before = previous_id
            ids = list(self._items)
            ids.insert(ids.index(previous_id) + 1, item_id)
            self._items[item_id] = item
            self._items = {each: self._items[each] for each in ids}
        self._sizes[item_id] = len(json.dumps(item))
        while sum(self._sizes.values()) > self._max_bytes and len(self._items) > 1:
            self.delete(next(each for each in self._items if each != item_id))
        return before

    def delete(self, item_id: str, event_id: str | None = None) -> None:
        self.get(item_id, event_id)
        for table in (self._items, self._sizes, self._answers):
            table.pop(item_id, None)

    def remember(self, answer: Answer) -> None:
        """Keep an answer's times, so that its item can be truncated."""
        self._answers[answer.item_id] = answer

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int, event_id: str | None) -> None:
        """Drop what the client did not play of the agent's item."""
        item = self.get(item_id, event_id)
        answer = self._answers.get(item_id)
        if answer is None or answer.text_only:
            raise ProtocolError("invalid_value", "only audio of the agent can be truncated", "item_id", event_id)
        if content_index != 0:
            raise ProtocolError("invalid_value", "content_index is 0 for audio", "content_index", event_id)
        if audio_end_ms > answer.sent_ms:
            message = f"audio_end_ms is {audio_end_ms}, the item has {answer.sent_ms} ms of audio"
            raise ProtocolError("invalid_value", message, "audio_end_ms", event_id)
        answer.texts = [(text, at_ms) for text, at_ms in answer.texts if at_ms < audio_end_ms]
        answer.sent_ms = audio_end_ms
        if item["content"]:
            item["content"][0]["transcript"] = answer.text()
