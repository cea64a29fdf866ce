"""Where the Hydra configs lie: `conf/` of a checkout, or `s2s/conf` of an installed wheel."""

from pathlib import Path


def conf_dir() -> Path:
    """Return the absolute path of the folder with the configs; raises FileNotFoundError when it was not installed."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no configs in {package / 'conf'} or {package.parent / 'conf'}: reinstall s2s")
