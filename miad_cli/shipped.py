"""Where the data that travels with the package lies: in the wheel, or beside it in a checkout."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from miad_cli.errors import MiadError


def models_directory() -> Path:
    """The folder of the models that ship with miad."""
    return _directory("onnx_models")


def profiles_directory() -> Path:
    """The folder of the profiles that ship with miad."""
    return _directory("profiles")


def _directory(name: str) -> Path:
    package = Path(str(resources.files("miad_cli")))
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise MiadError(f"this installation of miad has no {name}/", hint="Reinstall miad.")
