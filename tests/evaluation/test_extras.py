import sys
from pathlib import Path

import pytest

from s2s.evaluation.extras import MissingJudge, require


def test_a_missing_package_names_what_to_install() -> None:
    with pytest.raises(MissingJudge, match=r"no_such_judge.*pip install 's2s\[eval\]'"):
        require("no_such_judge.part")


def test_a_package_that_is_broken_inside_keeps_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_judge.py").write_text("import something_else_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="something_else_missing") as raised:
        require("broken_judge")
    assert not isinstance(raised.value, MissingJudge)
    sys.modules.pop("broken_judge", None)
