"""The golden vectors still mean what their names say."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import make
import numpy as np
import pytest

from miad_cli.watermark.blend import Tone, unblend
from miad_cli.watermark.recipe import mark_of


@pytest.mark.parametrize("path", make.files(), ids=lambda path: path.name)
def test_vector_gives_what_its_name_says(path: Path) -> None:
    assert make.found_in(path) == make.expected_of(path)


def test_what_is_made_today_has_the_same_structure(tmp_path: Path) -> None:
    assert make.check(tmp_path) == []


def test_every_result_has_a_vector() -> None:
    there = {make.expected_of(path) for path in make.files()}
    assert there >= {*make.ERRORS.values(), "ok", "pixels-changed", "attributes-changed", "moved"}


@pytest.mark.parametrize("name", ["ok-delta-compact-wide.dcm", "ok-delta-compact-rgb.dcm"])
def test_perturbation_is_undone_as_the_format_says(name: str) -> None:
    """docs/format.md once more, value by value, on Python's integers."""
    payload = make._payload_in(make.HERE / name)
    mark, tone = mark_of(payload.recipe, payload.parts["logo"])
    marked = make._picture(make.HERE / name).image.stored
    perturbed = unblend(marked, mark, tone, payload.parts["corrections"])
    original = make._picture(make.HERE / make.SOURCES[name][0]).image.stored
    _, rows, columns, samples = original.shape
    grid = payload.recipe["delta"]
    assert [grid["rows"], grid["columns"]] == [_side(n, rows, columns) for n in (rows, columns)]
    cells = [byte - 256 if byte > 127 else byte for byte in payload.parts["delta"]]
    down, across = _parts_of(grid["rows"], rows), _parts_of(grid["columns"], columns)
    bits = [byte >> 7 - place & 1 for byte in payload.parts["doubts"] for place in range(8)]
    unit = tone.low - tone.high if tone.inverted else tone.high - tone.low
    taken = 0
    for row, column, sample in np.ndindex(rows, columns, samples):
        total = sum(
            a * b * cells[(i * grid["columns"] + j) * samples + sample]
            for (i, a), (j, b) in product(down[row], across[column])
        )
        step = (2 * total * unit + 16711680) // 33423360
        value = int(perturbed[0, row, column, sample])
        changed = _is_free(value, tone) and _is_free(value - step, tone)
        if changed and not _is_free(value + step, tone):
            changed, taken = bool(bits[taken]), taken + 1
        assert value - changed * step == original[0, row, column, sample]
    assert 0 < taken <= len(bits) < taken + 8
    assert not any(bits[taken:])


def _side(side: int, rows: int, columns: int) -> int:
    longer = max(rows, columns)
    return side if longer <= 224 else max(1, (448 * side + longer) // (2 * longer))


def _parts_of(cells: int, pixels: int) -> list[list[tuple[int, int]]]:
    """For each pixel the cells it takes part of, and how much of 256."""
    taken = []
    for pixel in range(pixels):
        place = min(max((2 * pixel + 1) * cells - pixels, 0), 2 * pixels * (cells - 1))
        below, part = divmod(place, 2 * pixels)
        part = (256 * part + pixels) // (2 * pixels)
        if part == 256:
            below, part = below + 1, 0
        taken.append([(below, 256 - part)] + ([(below + 1, part)] if part else []))
    return taken


def _is_free(value: int, tone: Tone) -> bool:
    padding = tone.padding or (1, 0)
    return tone.low <= value <= tone.high and not padding[0] <= value <= padding[1]
