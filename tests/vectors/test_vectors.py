"""The golden vectors still mean what their names say."""

from __future__ import annotations

from pathlib import Path

import make
import pytest


@pytest.mark.parametrize("path", make.files(), ids=lambda path: path.name)
def test_vector_gives_what_its_name_says(path: Path) -> None:
    assert make.found_in(path) == make.expected_of(path)


def test_what_is_made_today_has_the_same_structure(tmp_path: Path) -> None:
    assert make.check(tmp_path) == []


def test_every_result_has_a_vector() -> None:
    there = {make.expected_of(path) for path in make.files()}
    assert there >= {*make.ERRORS.values(), "ok", "pixels-changed", "attributes-changed", "moved"}
