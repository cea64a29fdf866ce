"""Transcript: the tokens of one text stream as text that can be shown at once."""

from __future__ import annotations

from s2s.text import Tokenizer

_LONGEST = 4  # bytes of a character in UTF-8, so tokens that one character can span


class Transcript:
    """Turns ids into text, token by token; a character waits until all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._silent = tokenizer, set(tokenizer.actions.values())
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """What this id completes; nothing for actions and for ids from the tokenizer's vocab_size on: no text."""
        if not 0 <= token < self._tokenizer.vocab_size or token in self._silent:
            return ""
        self._pending.append(token)
        text = self._tokenizer.decode(self._pending)
        if text.endswith("\ufffd") and len(self._pending) < _LONGEST:
            return ""
        self._pending = []
        return text
