"""s2s: a speech-to-speech model that listens and speaks at the same time.

The names below are resolved on first use, so `import s2s` costs nothing and pulls in no third party.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2s.checkpoint import load
    from s2s.codec.base import Codec
    from s2s.engine.engine import Engine
    from s2s.engine.session import Session

__version__ = "0.1.0"
__all__ = ["Codec", "Engine", "Session", "__version__", "load"]

_HOMES = {
    "load": "s2s.checkpoint",
    "Codec": "s2s.codec.base",
    "Engine": "s2s.engine.engine",
    "Session": "s2s.engine.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 's2s' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
