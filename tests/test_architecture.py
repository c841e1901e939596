"""The rooms: who may import whom, who may print, and what must not be loaded.

In order of use: imaging, models, watermark, seal, pacs; then the use cases, of which `protect` has
a room of its own, protection; then evaluation, which measures them; then commands, console and app.
A room below does not import a room above.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import miad_cli

PACKAGE = Path(miad_cli.__file__).parent
FOUNDATION = {"__init__", "errors", "shipped"}
ROOMS = {"imaging", "models", "watermark", "seal", "pacs", "protection", "evaluation"}
SURFACE = {"commands", "console", "app", "__main__"}
ON_TOP = {"evaluate"}
"""Use cases of the evaluation, which no room and no other use case knows."""
USE_CASES = {path.stem for path in PACKAGE.glob("*.py")} - FOUNDATION - SURFACE - ON_TOP

MAY_IMPORT = {
    "imaging": {"imaging"},
    "models": {"imaging", "models"},
    "watermark": {"imaging", "models", "watermark"},
    "seal": {"seal"},
    "pacs": {"imaging", "pacs"},
    "protection": {"imaging", "models", "watermark", "seal", "protection"}
    | {"companions", "decisions", "files", "instance", "outcomes", "profiles", "study", "verify"}
    | {"workers"},
    "evaluation": {"imaging", "models", "watermark", "seal", "evaluation"} | USE_CASES,
}
"""Rooms that each room may use, besides the foundation."""

PROTECTION = ("request", "preparation", "reading", "choices", "earlier", "references", "run",
              "division")  # fmt: skip
"""Modules of that room, each of which knows none of those behind it."""

HEAVY = ("torch", "onnxruntime", "onnx", "onnx2fx")


def room_of(module: Path) -> str:
    """The room, or the module's own name where it stands at the top."""
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


MODULES = sorted(PACKAGE.rglob("*.py"))
SILENT = [module for module in MODULES if room_of(module) not in SURFACE]


def imported(module: Path) -> Iterator[str]:
    """Every module named in an import anywhere in the file, inside functions too."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: Path) -> set[str]:
    """Rooms and top modules of the package that a file imports."""
    names = set()
    for name in imported(module):
        parts = name.split(".")
        if parts[0] == "miad_cli" and len(parts) > 1:
            known = (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file()
            names.add(parts[1] if known else "__init__")
    return names


def loaded_by(code: str) -> set[str]:
    """Top packages in sys.modules after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys; print('\\n'.join({{n.split('.')[0] for n in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.split())


def test_imports_are_seen() -> None:
    """The reader of imports itself: it sees what is known to be there."""
    assert {"errors", "files", "imaging", "restoration", "seal"} <= own_imports(
        PACKAGE / "unlock.py"
    )
    assert "onnxruntime" in set(imported(PACKAGE / "models" / "session.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_nothing_above_it(module: Path) -> None:
    room, used = room_of(module), own_imports(module)
    if room in FOUNDATION:
        assert used <= FOUNDATION
    elif room in ROOMS:
        assert used <= MAY_IMPORT[room] | FOUNDATION
    elif room in ON_TOP:
        assert not used & SURFACE
    elif room not in SURFACE:
        assert not used & (SURFACE | ON_TOP | {"evaluation"})
    elif room != "commands":
        assert not used & (ON_TOP | {"evaluation"})


def test_protection_goes_one_way() -> None:
    room = PACKAGE / "protection"
    assert {path.stem for path in room.glob("*.py")} == {*PROTECTION, "__init__"}
    for number, name in enumerate(PROTECTION):
        for used in imported(room / f"{name}.py"):
            parts = used.split(".")
            if parts[:2] == ["miad_cli", "protection"]:
                assert parts[2] in PROTECTION[:number], name


def test_only_protect_and_its_callers_know_how_it_protects() -> None:
    knowing = {room_of(path) for path in MODULES if "protection" in own_imports(path)}
    assert knowing == {"protect", "protection", "commands"}


def test_watermark_and_seal_do_not_know_each_other() -> None:
    for room, other in (("watermark", "seal"), ("seal", "watermark")):
        for module in (PACKAGE / room).glob("*.py"):
            assert other not in own_imports(module), module.name


def test_every_room_is_one_of_the_design() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= ROOMS | {"commands"}


@pytest.mark.parametrize("module", SILENT, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_surface_prints(module: Path) -> None:
    tops = {name.split(".")[0] for name in imported(module)}
    assert not tops & {"rich", "typer", "click", "logging"}
    tree = ast.parse(module.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    spoken = {(one.value.id, one.attr) for one in attributes if isinstance(one.value, ast.Name)}
    assert not spoken & {("sys", "stdout"), ("sys", "stderr"), ("sys", "exit")}


def test_only_one_module_chooses_an_execution_provider() -> None:
    naming = [
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if {"onnxruntime"} & {name.split(".")[0] for name in imported(path)}
    ]
    assert naming == ["models/session.py"]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import contextlib, io\n"
        "from miad_cli.app import run\n"
        "with contextlib.redirect_stdout(io.StringIO()) as shown:\n"
        "    code = run(['--help'])\n"
        "assert code == 0 and 'protect' in shown.getvalue()"
    )
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydicom", "SimpleITK", "PIL"}


def test_program_loads_nothing_heavy() -> None:
    loaded = loaded_by("import miad_cli.app")
    assert "typer" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydicom", "SimpleITK", "PIL"}


@pytest.mark.parametrize("module", ["unlock", "verify", "restoration"])
def test_restoring_needs_no_model(module: str) -> None:
    loaded = loaded_by(f"import miad_cli.{module}")
    assert "numpy" in loaded
    assert not loaded & set(HEAVY)
