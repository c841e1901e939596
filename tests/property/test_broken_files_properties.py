"""A broken picture file is read or refused; whatever its bytes, nothing else is raised."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from helpers import build_dicom, build_png, ramp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from miad_cli.errors import PictureFailed
from miad_cli.imaging.dicom import read_dicom
from miad_cli.imaging.raster import read_raster

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


def saved(kind: str) -> bytes:
    target = BytesIO()
    Image.fromarray(COLOURS).save(target, format=kind)
    return target.getvalue()


DICOM = build_dicom(ramp(), bits_stored=12, WindowCenter=40, WindowWidth=400)
RASTERS = (build_png(COLOURS), saved("JPEG"), saved("TIFF"))

DAMAGE = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4)


def damaged(content: bytes, damage: list[tuple[int, int]], start: int) -> bytes:
    broken = bytearray(content)
    for place, value in damage:
        broken[start + place % (len(broken) - start)] = value
    return bytes(broken)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=100)
@given(DAMAGE)
def test_damaged_dicom_is_read_or_refused(damage: list[tuple[int, int]]) -> None:
    with suppress(PictureFailed):
        read_dicom(damaged(DICOM, damage, start=132))


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=100)
@given(st.sampled_from(RASTERS), DAMAGE)
def test_damaged_raster_is_read_or_refused(content: bytes, damage: list[tuple[int, int]]) -> None:
    with suppress(PictureFailed):
        read_raster(damaged(content, damage, start=8))
