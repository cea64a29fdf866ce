"""Extras: the judges' packages, imported when first used, with an error that says what to install."""

import importlib
from typing import Any

EXTRA = "pip install 's2s[eval]'"


class MissingJudge(ImportError):
    """A package that a judge needs is not installed."""


def require(module: str, install: str = EXTRA) -> Any:
    """Import `module`, or raise MissingJudge with the command that installs it.

    Only the absence of the named package is translated: an installed package that fails to import keeps its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingJudge(f"evaluation needs {error.name}, which is not installed: {install}") from error
