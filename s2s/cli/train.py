"""`s2s train`: composes a config with Hydra and trains it."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from s2s.cli.conf import conf_dir
from s2s.config import to_dict
from s2s.streams import dialogue_layout
from s2s.train.config import CodecRun, DuplexRun, run_from_dict
from s2s.train.run import run_training

USAGE = """usage: s2s train experiment=NAME [key=value ...] [--multirun]

Trains a codec or a model. Started again with the same arguments, it continues exactly where it was.
  key=value                changes a value: optim.learning_rate=1e-3 data.batch_size=8 trainer.precision=32-true
  group=option             chooses another file of a group: model=tiny
  --multirun key=a,b       trains once per value, each run in a folder of its own
  --cfg job                prints the composed config and stops
  experiment=NAME --help   prints every key of the experiment with its value
  resume=never|PATH        begins anew, or continues a certain checkpoint; init_from=PATH takes over weights only"""

_OVERRIDE = re.compile(r"^([a-z_][\w.]*)=")


def train(argv: list[str]) -> None:
    """Run `s2s train` with the arguments behind it; exits with 2 for what the user can mend."""
    if {"-h", "--help"} & set(argv):
        print(help_text([arg for arg in argv if arg not in ("-h", "--help")]))
        return
    before = sys.argv
    sys.argv = [before[0], *(loosen(arg) for arg in argv)]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_train)()
    finally:
        sys.argv = before


def _train(config: DictConfig) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("s2s").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning's own use of torch; and the judges of a codec join after the schedule has begun.
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`")
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)` before")
    try:
        run = resolve(config)
        job = HydraConfig.get()
        if job.mode == RunMode.MULTIRUN:
            run = replace(run, folder=f"{run.folder}-{job.job.num}")
        run_training(run)
    except ValueError as error:
        print(f"s2s train: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if "not finite" not in str(error):
            raise
        print(f"s2s train: {error}", file=sys.stderr)
        sys.exit(1)


def compose_run(overrides: list[str]) -> CodecRun | DuplexRun:
    """The run that these arguments describe, without training it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return resolve(compose("train", [loosen(override) for override in overrides]))


def resolve(config: DictConfig) -> CodecRun | DuplexRun:
    tree: Any = OmegaConf.to_container(config, resolve=True)
    return run_from_dict({key: value for key, value in tree.items() if value is not None})


def loosen(argument: str) -> str:
    """Let `key=value` name any key: our own schema tells wrong ones, and names the nearest."""
    found = _OVERRIDE.match(argument)
    if not found or found[1] in groups() or found[1].startswith("hydra"):
        return argument
    return f"++{argument}"


def groups() -> dict[str, list[str]]:
    """The groups of configs for training and the options of each."""
    folders = sorted(path for path in conf_dir().iterdir() if path.is_dir() and path.name != "evaluation")
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def help_text(overrides: list[str]) -> str:
    lines = [USAGE, "", "experiments:"]
    for name in groups()["experiment"]:
        lines.append(f"  {name:<16} {_first_comment(conf_dir() / 'experiment' / f'{name}.yaml')}")
    lines += ["", "groups:"]
    lines += [f"  {name:<16} {', '.join(options)}" for name, options in groups().items() if name != "experiment"]
    if overrides:
        lines += ["", OmegaConf.to_yaml(OmegaConf.create(to_dict(whole(compose_run(overrides)))))]
    return "\n".join(lines)


def whole(run: CodecRun | DuplexRun) -> CodecRun | DuplexRun:
    """The run with the defaults of its `optim` and sizes written out."""
    if isinstance(run, CodecRun):
        values = to_dict(run.train_config())
        return replace(run, codec=values.pop("codec"), optim=values)
    values = to_dict(run.train_config(dialogue_layout(8, 1024, 512)))
    model = values.pop("model")
    model.pop("layout")
    return replace(run, model=model, optim=values)


def _first_comment(path: Path) -> str:
    lines = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@")), "")
