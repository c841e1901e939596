"""`miad demo`, as somebody types it who has just installed miad."""

from __future__ import annotations

import time

import pytest
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(open_workshop):
    workshop = open_workshop("demo")
    started = time.monotonic()
    said = workshop.miad("demo", "-o", "shown", timeout=240)
    return workshop.folder, said, time.monotonic() - started


def test_it_ends_well_and_in_time(demo):
    _, said, seconds = demo

    assert said.code == 0, said.err
    assert seconds < 120  # a minute on two cores that have nothing else to do


def test_it_shows_the_commands_that_it_ran(demo):
    _, said, _ = demo

    commands = [line for line in said.out.splitlines() if line.startswith("$ miad ")]
    assert [line.split()[2] for line in commands] == ["protect", "verify", "unlock"]


def test_every_file_comes_back_identical(demo):
    folder, said, _ = demo

    assert said.out.count("identical") == 3
    for path in (folder / "shown" / "study").iterdir():
        assert (folder / "shown" / "study-unlocked" / path.name).read_bytes() == path.read_bytes()


def test_the_comparison_is_there(demo):
    folder, _, _ = demo

    with Image.open(folder / "shown" / "comparison.png") as sheet:
        assert sheet.size == (1360, 1168)
        assert len(sheet.getcolors(sheet.width * sheet.height)) > 100


def test_its_keys_stay_in_its_own_folder(demo):
    folder, _, _ = demo

    assert not (folder / "home").exists()
    assert (folder / "shown" / "key.txt").stat().st_mode & 0o077 == 0
