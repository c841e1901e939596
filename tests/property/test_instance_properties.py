"""Any uncompressed DICOM picture is restored from a compact payload, byte for byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import build_dicom, marking_of, noisy_logo, sealing_for, tone_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pyrage import x25519

from miad_cli.imaging.dicom import DicomPicture, read_dicom
from miad_cli.imaging.picture import container_in
from miad_cli.instance import write_instance
from miad_cli.restoration import restore
from miad_cli.seal.container import open_payload, parse
from miad_cli.seal.payload import decode
from miad_cli.watermark.blend import Mark
from miad_cli.watermark.delta import Delta, add, grid_size

IDENTITY = x25519.Identity.generate()


@dataclass(frozen=True)
class Original:
    content: bytes
    x: int
    y: int
    alpha: int
    logo: np.ndarray
    delta: Delta | None


@st.composite
def originals(draw: st.DrawFn) -> Original:
    allocated = draw(st.sampled_from([8, 16, 32]))
    stored = draw(st.integers(2, allocated))
    signed = draw(st.booleans())
    rows, columns = draw(st.integers(2, 6)), draw(st.integers(2, 6) | st.just(230))
    samples = draw(st.sampled_from([1, 3]))
    shape = (draw(st.integers(1, 2)), rows, columns, samples)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    words = generator.integers(0, 1 << allocated, shape, np.uint64).astype(f"u{allocated // 8}")
    if draw(st.booleans()):
        words &= words.dtype.type((1 << stored) - 1)
    attributes: dict[str, object] = {}
    if samples == 1 and draw(st.booleans()):
        attributes |= {"WindowCenter": draw(st.integers(-500, 500)), "WindowWidth": 100}
    if samples == 1 and allocated <= 16 and draw(st.booleans()):
        ends = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
        attributes["PixelPaddingValue"] = draw(st.sampled_from(ends))
    content = build_dicom(
        words,
        bits_stored=stored,
        high_bit=draw(st.integers(stored - 1, allocated - 1)),
        signed=signed,
        syntax=draw(
            st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
        ),
        photometric=draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"])) if samples == 1 else "",
        planar=draw(st.booleans()),
        as_ow=draw(st.booleans()),
        **attributes,
    )
    delta = None
    if draw(st.booleans()):
        cells = generator.integers(-20, 21, (*grid_size(rows, columns), samples))
        delta = Delta(cells.astype(np.int8))
    height, width = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    return Original(
        content,
        draw(st.integers(0, columns - width)),
        draw(st.integers(0, rows - height)),
        draw(st.integers(1, 255)),
        noisy_logo(height, width, draw(st.integers(0, 2**32))),
        delta,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("protected")


@settings(deadline=None, max_examples=50)
@given(original=originals())
def test_native_dicom_comes_back_from_the_written_file(folder: Path, original: Original) -> None:
    picture = read_dicom(original.content)
    assert isinstance(picture, DicomPicture)
    mark = Mark(original.x, original.y, original.alpha, original.logo)
    beneath = picture.image
    if original.delta is not None:
        moved = add(beneath.stored, original.delta, tone_of(beneath))
        beneath = replace(beneath, stored=moved)
    marking = marking_of(beneath, mark)
    marking = replace(marking, decision=replace(marking.decision, delta=original.delta))
    target = folder / "picture.dcm"
    sealing = sealing_for(IDENTITY.to_public(), payload="compact")
    write_instance(target, "picture.dcm", picture, marking, sealing)
    content = target.read_bytes()
    written = read_dicom(content)
    np.testing.assert_array_equal(written.image.stored, marking.stored)
    carried = container_in(written)
    assert carried is not None
    payload = decode(open_payload(parse(carried), [IDENTITY]))
    assert "original" not in payload.parts
    assert restore(payload, content) == original.content
