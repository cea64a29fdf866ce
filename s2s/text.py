"""Text tokenizers: text to integer ids and back, loss-free for any text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as _Backend

NUM_BYTES = 256
_ACTION = ("<|", "|>")  # around an action's name in the file


class Tokenizer(Protocol):
    """Maps text to ids in `[0, vocab_size)` and back.

    `decode(encode(text)) == text` for every text. Ids outside the vocabulary (start, pad) are ignored by `decode`, and
    bytes that do not form a character are shown as U+FFFD. `actions` are ids by name that stand for something to do,
    such as a hand-off: no text encodes to them, and they decode to nothing.
    """

    actions: Mapping[str, int]

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def to_json(self) -> str: ...


class ByteTokenizer:
    """One id per UTF-8 byte: needs no training."""

    vocab_size = NUM_BYTES
    actions: Mapping[str, int] = MappingProxyType({})

    def encode(self, text: str) -> list[int]:
        return list(_utf8(text))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(i) for i in ids if 0 <= int(i) < NUM_BYTES).decode("utf-8", errors="replace")

    def to_json(self) -> str:
        return json.dumps({"kind": "bytes"})


class BpeTokenizer:
    """Byte-pair subwords over bytes: unseen text falls back to single bytes, so there is no unknown token.

    A token holds either a space at its very beginning or no space before other characters, so that a word encoded with
    the space in front of it can be found again in a stream of tokens.
    """

    def __init__(self, backend: _Backend) -> None:
        missing = NUM_BYTES - sum(backend.token_to_id(c) is not None for c in pre_tokenizers.ByteLevel.alphabet())
        if missing:
            raise ValueError(f"a byte-level vocabulary holds all {NUM_BYTES} bytes; {missing} are missing")
        self._backend = backend
        backend.encode_special_tokens = True  # as letters: what a caller or a text says is never an action
        added = backend.get_added_tokens_decoder()
        names = {token.content: index for index, token in added.items() if token.special}
        self.actions: Mapping[str, int] = {
            name.removeprefix(_ACTION[0]).removesuffix(_ACTION[1]): index for name, index in sorted(names.items())
        }

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, actions: Sequence[str] = ()) -> BpeTokenizer:
        """Learns merges from `texts`; the vocabulary is smaller than `vocab_size` when the texts run out of pairs.

        The last ids are those of `actions`.
        """
        if vocab_size < NUM_BYTES + len(actions):
            raise ValueError(
                f"vocab_size {vocab_size} must be at least {NUM_BYTES + len(actions)}, one entry per byte and action"
            )
        backend = _Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(actions),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[],
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        backend.add_special_tokens([AddedToken(name.join(_ACTION), special=True) for name in actions])
        return cls(backend)

    @classmethod
    def from_json(cls, text: str) -> BpeTokenizer:
        """Rebuilds a tokenizer from `to_json`; anything else is a ValueError."""
        try:
            kind = json.loads(text)["model"]["type"]
            if kind != "BPE":
                raise ValueError(f"model type {kind!r}, allowed is 'BPE'")
            return cls(_Backend.from_str(text))
        except Exception as error:  # the library raises bare Exception for a broken file
            raise ValueError(f"not a BPE tokenizer: {error}") from error

    @property
    def vocab_size(self) -> int:
        return int(self._backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        _utf8(text)
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(i) for i in ids if 0 <= int(i) < self.vocab_size]
        return str(self._backend.decode(known, skip_special_tokens=True))

    def to_json(self) -> str:
        return str(self._backend.to_str())


def load_tokenizer(text: str) -> Tokenizer:
    """The tokenizer whose `to_json` gave `text`."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"a tokenizer file is JSON: {error}") from error
    if isinstance(fields, dict) and fields.get("kind") == "bytes":
        return ByteTokenizer()
    return BpeTokenizer.from_json(text)


def _utf8(text: str) -> bytes:
    """UTF-8 bytes; a lone surrogate is not text and raises ValueError (UnicodeEncodeError)."""
    return text.encode("utf-8")
