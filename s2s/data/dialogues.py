"""Where dialogues come from: the protocol of a source, and the one table from `kind` to class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from s2s.config import from_dict
from s2s.data.compose import ComposeConfig, DeskSource
from s2s.data.folder import FolderConfig, FolderSource
from s2s.data.moshi_finetune import MoshiFinetuneConfig, MoshiFinetuneSource
from s2s.data.schema import Dialogue
from s2s.data.synthetic import ToyEchoConfig, ToyEchoSource
from s2s.data.table import TableConfig, TableSource


class DialogueSource(Protocol):
    """Dialogues by number. Reading one raises ValueError with the reason when it is corrupt."""

    name: str

    def __len__(self) -> int: ...

    def row_id(self, index: int) -> str:
        """Names a row without decoding its audio."""
        ...

    def __getitem__(self, index: int) -> Dialogue: ...


_KINDS: dict[str, tuple[type, Callable[[Any], DialogueSource]]] = {
    "moshi_finetune": (MoshiFinetuneConfig, MoshiFinetuneSource),
    "table": (TableConfig, TableSource.from_files),
    "folder": (FolderConfig, FolderSource),
    "support_desk": (ComposeConfig, DeskSource),
    "toy_echo": (ToyEchoConfig, ToyEchoSource),
}


def open_source(fields: Mapping[str, Any]) -> DialogueSource:
    """The source that `fields` describe: a `kind` and the fields of its config."""
    kind = fields.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"source kind {kind!r} is unknown, allowed are {', '.join(_KINDS)}")
    config_class, source_class = _KINDS[kind]
    return source_class(from_dict(config_class, {key: value for key, value in fields.items() if key != "kind"}))
