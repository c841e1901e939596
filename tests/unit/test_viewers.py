"""What we write, an independent decoder shows as we mean it: DCMTK's dcm2pnm and its siblings."""

from __future__ import annotations

import os
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers import build_dataset, encode, marking_of, noisy_logo, picture_of, ramp, sealing_for
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from pyrage import x25519

from miad_cli.imaging.dicom import DicomPicture, read_dicom
from miad_cli.instance import write_instance
from miad_cli.watermark.blend import Mark

RECIPIENT = x25519.Identity.generate().to_public()


def written(content: bytes, folder: Path) -> Path:
    """The protected file of a picture, with a logo in its top left quarter."""
    picture = read_dicom(content)
    assert isinstance(picture, DicomPicture)
    logo = noisy_logo(max(1, picture.image.rows // 2), max(1, picture.image.columns // 2))
    target = folder / "protected.dcm"
    marking = marking_of(picture.image, Mark(0, 0, 150, logo))
    write_instance(target, "original.dcm", picture, marking, sealing_for(RECIPIENT))
    return target


def rendered(path: Path, frame: int) -> np.ndarray:
    """A frame as DCMTK shows it: its least value black, its greatest white; colour as it is."""
    picture = read_dicom(path.read_bytes())
    lossless = picture.dataset.file_meta.TransferSyntaxUID == JPEGLSLossless
    program = program_of_dcmtk("dcml2pnm" if lossless else "dcm2pnm")
    low, high = extremes(picture, frame)
    window = ["+Ww", str((low + high + 1) / 2), str(high - low + 1), "-M", "-O"]
    target = path.with_suffix(".pnm")
    subprocess.run(
        [program, "+op", "+F", str(frame + 1), *(window if picture.image.is_grey else []), path,
         target],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with Image.open(target) as opened:
        shown = np.asarray(opened).astype(int)
    return shown[..., None] if shown.ndim == 2 else shown


def program_of_dcmtk(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        message = f"{name} (DCMTK) is not installed"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return found


def extremes(picture: DicomPicture, frame: int) -> tuple[int, int]:
    if not picture.image.is_grey:
        return 0, picture.image.bounds[1]
    stored = picture.image.stored[frame]
    return int(stored.min()), int(stored.max())


def bundled(name: str) -> bytes:
    return Path(get_testdata_file(name, download=False)).read_bytes()


def made(**settings: object) -> bytes:
    return encode(build_dataset(ramp(40, 48, top=2000), bits_stored=12, **settings))


def with_overlay() -> bytes:
    return encode(build_dataset(ramp(40, 48) | 0xA000, bits_stored=12))


def words_called_bytes() -> bytes:
    dataset = build_dataset(ramp(40, 48), bits_stored=12, syntax=ExplicitVRBigEndian)
    dataset["PixelData"].VR = "OB"
    return encode(dataset)


def deep_colour() -> bytes:
    words = np.random.default_rng(2).integers(0, 65536, (1, 40, 48, 3), np.uint16)
    return encode(build_dataset(words, planar=True))


def cine(syntax: str) -> bytes:
    words = np.random.default_rng(2).integers(0, 256, (3, 40, 48, 3), np.uint8)
    dataset = build_dataset(words)
    dataset.compress(syntax, generate_instance_uid=False)
    return encode(dataset)


def without_header() -> bytes:
    content = made(syntax=ImplicitVRLittleEndian)
    return content[144 + int.from_bytes(content[140:144], "little") :]


PICTURES = {
    "grey, signed": lambda: made(signed=True),
    "MONOCHROME1": lambda: made(photometric="MONOCHROME1"),
    "overlay in the high bits": with_overlay,
    "implicit": lambda: made(syntax=ImplicitVRLittleEndian),
    "big endian": lambda: made(syntax=ExplicitVRBigEndian),
    "big endian, called bytes": words_called_bytes,
    "deep colour": deep_colour,
    "without header": without_header,
    "cine, RLE": lambda: cine(RLELossless),
    "cine, JPEG-LS": lambda: cine(JPEGLSLossless),
    **{
        name: lambda name=name: bundled(name)
        for name in (
            "CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm",
            "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_small_odd.dcm",
            "SC_rgb_small_odd_big_endian.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_jpeg_dcmtk.dcm",
            "SC_rgb_dcmtk_+eb+cy+s2.dcm", "SC_ybr_full_422_uncompressed.dcm",
            "examples_palette.dcm", "examples_ybr_color.dcm",
        )
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PICTURES)
def test_dcmtk_shows_what_was_written(name: str, tmp_path: Path) -> None:
    path = written(PICTURES[name](), tmp_path)
    picture = read_dicom(path.read_bytes())
    for frame in {0, picture.image.frames - 1}:
        low, high = extremes(picture, frame)
        wanted = (picture.image.stored[frame].astype(float) - low) / max(high - low, 1) * 255
        if picture.dataset.PhotometricInterpretation == "MONOCHROME1":
            wanted = 255 - wanted
        shown = rendered(path, frame)
        assert shown.shape == wanted.shape
        assert np.abs(shown - wanted).max() <= 1


def test_window_is_what_makes_dcmtk_black_and_white(tmp_path: Path) -> None:
    """Our window of a MONOCHROME1 picture with a falling slope, against DCMTK's own use of it."""
    program = program_of_dcmtk("dcm2pnm")
    settings = {"RescaleSlope": -2, "RescaleIntercept": 100, "WindowCenter": -1500}
    image = picture_of(
        build_dataset(
            ramp(40, 48), bits_stored=12, photometric="MONOCHROME1", WindowWidth=1001, **settings
        )
    )
    path, target = tmp_path / "a.dcm", tmp_path / "a.pnm"
    path.write_bytes(image.content)
    subprocess.run([program, "+Wi", "1", path, target], check=True, timeout=60)
    with Image.open(BytesIO(target.read_bytes())) as opened:
        shown = np.asarray(opened).astype(int)
    ours = image.image.windowed(image.image.stored[0])[..., 0] * 255
    assert np.abs(shown - ours).max() <= 2
    assert dcmread(path).WindowWidth == 1001
