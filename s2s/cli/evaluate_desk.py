"""`s2s evaluate experiment=NAME key=value`: composes the config of an evaluation with Hydra and runs it."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from s2s.cli.conf import conf_dir
from s2s.config import from_dict
from s2s.evaluation.desk_evaluation import DeskEvaluation, evaluate_desk

GROUP = "evaluation"
_OVERRIDE = re.compile(r"^([a-z_][\w.]*)=(.*)$", re.DOTALL)


def run_evaluation(arguments: Sequence[str]) -> dict[str, Any]:
    """Run what these arguments describe and return its report; ValueError for what the user can mend."""
    config = compose_evaluation(arguments)
    logging.getLogger("s2s.evaluation.desk_evaluation").setLevel(logging.INFO)
    return evaluate_desk(config, "s2s evaluate " + shlex.join(arguments))


def compose_evaluation(arguments: Sequence[str]) -> DeskEvaluation:
    """The evaluation that `experiment=NAME key=value ...` describes; keys may stand behind "evaluation."."""
    values: dict[str, str] = {}
    for argument in arguments:
        found = _OVERRIDE.match(argument)
        if found is None:
            raise ValueError(f"{argument!r} is no key=value")
        values[found[1].removeprefix(f"{GROUP}.")] = found[2]
    names = sorted(path.stem for path in (conf_dir() / GROUP).glob("*.yaml"))
    name = values.pop("experiment", "")
    if name not in names:
        raise ValueError(f"experiment is {name!r}, those that can be evaluated are {', '.join(names)}")
    overrides = [f"++{key}={value}" for key, value in values.items()]
    try:
        with initialize_config_dir(str(conf_dir() / GROUP), version_base="1.3"):
            tree: Any = OmegaConf.to_container(compose(name, overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return from_dict(DeskEvaluation, tree)
