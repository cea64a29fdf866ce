"""`s2s train` as it is typed: several runs at once, and one clear line for what is wrong."""

from pathlib import Path

import pytest

from s2s.cli.train import train
from s2s.train.checkpoints import list_checkpoints

TINY = ["experiment=toy_codec", "debug=tiny", "data.crop_samples=9600", "callbacks.sample_every=0"]


def test_multirun_trains_once_per_value(toy: Path, tmp_path: Path) -> None:
    more = [f"folder={tmp_path}/run", f"data.files=[{toy}/audio.parquet]", f"data.cache={toy}/audio.npy"]
    train([*TINY, *more, "optim.total_steps=1,2", "--multirun"])
    assert [path.name for path in list_checkpoints(tmp_path / "run-0" / "checkpoints")] == ["step-00000001.ckpt"]
    assert list_checkpoints(tmp_path / "run-1" / "checkpoints")[0].name == "step-00000002.ckpt"


@pytest.mark.parametrize(
    ("argument", "message"),
    [("optim.learning_rat=1", "did you mean 'learning_rate'"), ("data.files=[nowhere.parquet]", "nothing matches")],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    argument: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train([*TINY, f"folder={tmp_path}", argument])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("s2s train: ")
    assert not any("Traceback" in line for line in lines)


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    train(["--help"])
    shown = capsys.readouterr().out
    assert "codec_general" in shown and "--multirun" in shown
