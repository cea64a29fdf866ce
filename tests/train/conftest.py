"""The data of the toy, made once."""

from pathlib import Path

import pytest

from tests.train.toy import make_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"))
