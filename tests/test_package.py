"""The public names and what travels in the package."""

from importlib.metadata import version

import pytest

import s2s
from s2s.cli.conf import conf_dir


def test_public_names_resolve() -> None:
    assert s2s.__all__
    for name in s2s.__all__:
        assert getattr(s2s, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'s2s' has no attribute 'lode'"):
        _ = s2s.lode


def test_the_installed_version_is_the_written_one() -> None:
    assert version("s2s") == s2s.__version__


def test_the_configs_are_found() -> None:
    assert (conf_dir() / "README.md").is_file()
