"""Every YAML composes and builds; what is wrong in one is said clearly."""

import pytest
import torch

from s2s.cli.train import compose_run, groups, help_text, whole
from s2s.streams import dialogue_layout
from s2s.train.codec import CodecModule
from s2s.train.config import CodecRun, DuplexRun, run_from_dict
from s2s.train.module import DuplexModule

# An experiment of the kind that takes an option of the group.
EXPERIMENT_OF = {"codec": "codec_general", "model": "support_desk", "streams": "support_desk"}
KIND_OF_OPTION = {"crops": "codec_general", "codec_general": "codec_general", "codec_voice": "codec_general"}
OPTIONS = [(group, option) for group, options in groups().items() if group != "experiment" for option in options]


def build(run: CodecRun | DuplexRun) -> torch.nn.Module:
    with torch.device("meta"):
        if isinstance(run, DuplexRun):
            return DuplexModule(run.train_config(dialogue_layout(8, 1024, 512)))
    return CodecModule(run.train_config())


@pytest.mark.parametrize("name", groups()["experiment"])
def test_every_experiment_composes_and_builds(name: str) -> None:
    build(compose_run([f"experiment={name}"]))
    build(compose_run([f"experiment={name}", "debug=tiny"]))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    experiment = EXPERIMENT_OF.get(group) or KIND_OF_OPTION.get(option, "support_desk")
    build(compose_run([f"experiment={experiment}", f"{group}={option}"]))


def test_values_of_the_command_line_arrive() -> None:
    run = compose_run(["experiment=support_desk", "optim.learning_rate=0.25", "model.backbone.width=80", "seed=7"])
    config = run.train_config(dialogue_layout(2, 16, 32, 1))  # type: ignore[call-arg]
    assert (config.learning_rate, config.model.backbone.width) == (0.25, 80)
    assert config.model.layout == dialogue_layout(2, 16, 32, 1)
    assert run.data.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rat=1", r"optim\.learning_rat: unknown key; did you mean 'learning_rate'"),
        ("model.backbone.widht=8", r"model\.backbone\.widht: unknown key; did you mean 'width'"),
        ("trainer.precison=16", r"trainer\.precison: unknown key; did you mean 'precision'"),
        ("trainer.precision=fp8", "bf16-mixed"),
        ("data.batchsize=3", "did you mean 'batch_size'"),
        ("optim.warmup_steps=many", r"optim\.warmup_steps: expected int"),
        ("model.layout=1", r"model\.layout: unknown key"),
        ("trainer.validate_every=7", "validate_every 7 must be a multiple"),
        ("callbacks.ema_decay=1.5", "ema_decay 1.5"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose_run(["experiment=support_desk", override])


def test_wrong_starts_are_not_for_a_voice_to_learn() -> None:
    with pytest.raises(
        ValueError, match=r"data\.wrong_starts needs optim\.replies_only, or an optim\.audio_weight of 0"
    ):
        compose_run(["experiment=support_desk", "data.wrong_starts=0.5"])
    with pytest.raises(ValueError, match=r"wrong_starts 1\.5 must be 0 to 1"):
        compose_run(["experiment=support_desk_turns", "data.wrong_starts=1.5"])
    compose_run(["experiment=support_desk_hearing", "data.wrong_starts=0.5"])


def test_a_codec_cannot_accumulate() -> None:
    with pytest.raises(ValueError, match="accumulate"):
        compose_run(["experiment=codec_general", "trainer.accumulate=2"])


def test_without_an_experiment_the_message_says_so() -> None:
    with pytest.raises(ValueError, match="experiment="):
        run_from_dict({"folder": "x"})


def test_help_lists_experiments_and_every_key() -> None:
    text = help_text(["experiment=support_desk"])
    assert all(name in text for name in groups()["experiment"])
    assert "first_codebook_weight:" in text and "num_kv_heads:" in text


@pytest.mark.parametrize("name", ["codec_general", "support_desk"])
def test_the_whole_config_says_the_same(name: str) -> None:
    run = compose_run([f"experiment={name}"])
    layout = [dialogue_layout(8, 1024, 512)] if isinstance(run, DuplexRun) else []
    assert whole(run).train_config(*layout) == run.train_config(*layout)  # type: ignore[call-arg]
