"""The wheel: what travels in it, and that it works where the checkout is not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]


def _pip(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Where the build backend is installed no network is needed.
    offline = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    _pip("wheel", REPOSITORY, "--no-deps", "--quiet", "-w", folder, *offline)
    (made,) = folder.glob("miad-*.whl")
    return made


def test_models_and_profiles_travel_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    models = {path.parent.name for path in REPOSITORY.glob("onnx_models/*/manifest.toml")}
    profiles = {path.name for path in REPOSITORY.glob("profiles/*.toml")}

    assert models and profiles
    for model in models:
        assert {
            f"miad_cli/onnx_models/{model}/{part}" for part in ("model.onnx", "manifest.toml")
        } <= names
    assert {f"miad_cli/profiles/{profile}" for profile in profiles} <= names


def test_nothing_else_travels_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()

    assert not [
        name
        for name in names
        if not fnmatch(name, "miad_cli/*") and not fnmatch(name, "miad-*.dist-info/*")
    ]


def test_it_works_where_the_checkout_is_not(wheel, tmp_path):
    _pip("install", "--no-deps", "--no-index", "--quiet", "--target", tmp_path / "site", wheel)
    (tmp_path / "elsewhere").mkdir()

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path / "elsewhere",
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import miad_cli; print(miad_cli.__file__)").startswith(str(tmp_path))
    assert "general" in run("-m", "miad_cli", "profiles", "list")
    shipped = {path.parent.name for path in REPOSITORY.glob("onnx_models/*/manifest.toml")}
    listed = json.loads(run("-m", "miad_cli", "models", "list", "--json"))["models"]
    assert {one["name"] for one in listed} == shipped
