"""How much memory one picture takes, as a multiple of its decoded pixels.

`protect` and `unlock` run in processes of their own, on a synthetic cine of 50 and of 500 frames
in several encodings. Each process does a small picture first, so that programs and models are
loaded; what is printed is how far its resident memory then rises at most. Linux only.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MEBIBYTE = 1 << 20
CASES = ("grey8", "rgb8", "grey12", "rle", "jpeg", "j2k", "ybr", "deflated", "overlay")
_MODEL = "mobilenet-v2"


def main() -> None:
    options = _options()
    if options.run:
        print(json.dumps(_measure(options.run, Path(options.folder))))
        return
    print("| encoding | frames | decoded | file | protect | | unlock | | identical |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for case in options.cases:
        for frames in options.frames:
            print(_row(case, frames, options.rows, options.columns), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--columns", type=int, default=640)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["grey8", "grey12", "rle"])
    parser.add_argument("--run", choices=("protect", "unlock"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _row(case: str, frames: int, rows: int, columns: int) -> str:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        original = folder / "big" / "cine.dcm"
        decoded = _write(original, case, frames, rows, columns)
        _write(folder / "small" / "cine.dcm", case, 2, 64, 64)
        size = original.stat().st_size
        cells = [f"{case} | {frames} | {decoded / MEBIBYTE:.0f} MiB | {size / MEBIBYTE:.0f} MiB"]
        for name in ("protect", "unlock"):
            found = _in_a_process(name, folder)
            grown = f"{found['grown'] / decoded:.2f} ×"
            cells.append(f"{grown} | {found['seconds']:.1f} s")
        back = folder / "big-back" / "cine.dcm"
        same = back.is_file() and back.read_bytes() == original.read_bytes()
    return f"| {' | '.join(cells)} | {'yes' if same else 'NO'} |"


def _in_a_process(name: str, folder: Path) -> dict[str, float]:
    line = [sys.executable, "-m", "benchmarks.memory", "--run", name, "--folder", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- In the process -------------------------------------------------------------------------


def _measure(name: str, folder: Path) -> dict[str, float]:
    """Bytes that the peak of resident memory rises by, and seconds."""
    work = {"protect": _protect, "unlock": _unlock}[name]
    work(folder, "small")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (proc(5))
    before, started = _status("VmRSS"), time.perf_counter()
    work(folder, "big")
    return {"grown": _status("VmHWM") - before, "seconds": time.perf_counter() - started}


def _status(entry: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) << 10
    raise OSError(f"no {entry} in /proc/self/status")


def _protect(folder: Path, name: str) -> None:
    from PIL import Image

    from miad_cli.protect import protect
    from miad_cli.protection.request import Request
    from miad_cli.seal.owner import OwnerKey

    logo = folder / "logo.png"
    Image.new("RGBA", (64, 64), (255, 0, 0, 255)).save(logo)
    report = protect(
        Request(
            inputs=(folder / name,),
            logo=logo,
            output=folder / f"{name}-out",
            anywhere=True,
            overrides={"search": {"method": "random"}, "models": {"names": [_MODEL]}},
            key_out=folder / f"{name}.key",
            owner=OwnerKey.generate(),
        )
    )
    if report.count("protected") != 1:
        sys.exit(f"not protected: {[one.reason for one in report.outcomes]}")


def _unlock(folder: Path, name: str) -> None:
    from miad_cli.seal.identities import load_identities
    from miad_cli.unlock import unlock

    keys = load_identities(folder / f"{name}.key")
    report = unlock((folder / f"{name}-out",), folder / f"{name}-back", keys)
    if report.count("unlocked") != 1:
        sys.exit(f"not unlocked: {[one.reason for one in report.outcomes]}")


# --- The pictures ---------------------------------------------------------------------------


def _write(path: Path, case: str, frames: int, rows: int, columns: int) -> int:
    """Write a cine and give the bytes of its decoded pixels."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGBaseline8Bit,
        RLELossless,
    )

    colour = case in ("rgb8", "jpeg", "ybr")
    words = _scene(frames, rows, columns, 3 if colour else 1, case in ("grey12", "overlay"))
    dataset = _dataset(words)
    if case == "overlay":
        words |= np.uint16(0x8000)
    dataset.PixelData = words.tobytes()
    if case == "ybr":
        dataset.PhotometricInterpretation = "YBR_FULL"
    if case == "deflated":
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    if case in ("rle", "j2k"):
        dataset.compress(RLELossless if case == "rle" else JPEG2000Lossless)
    if case == "jpeg":
        dataset.PixelData = encapsulate([_jpeg(frame) for frame in words])
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        dataset.LossyImageCompression = "01"
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return words.nbytes


def _scene(frames: int, rows: int, columns: int, samples: int, deep: bool) -> np.ndarray:
    """Something smooth that moves, with noise, (frames, rows, columns, samples)."""
    generator = np.random.default_rng(1)
    top, dtype = (4095, np.uint16) if deep else (255, np.uint8)
    across = np.sin(np.arange(columns) / 40)[None, :, None]
    down = np.sin(np.arange(rows) / 30)[:, None, None]
    noise = generator.integers(0, top // 16, (rows, columns, samples))
    scene = np.empty((frames, rows, columns, samples), dtype)
    for number in range(frames):
        waves = np.roll(across, 3 * number, axis=1) * down
        scene[number] = ((waves + 1) * (top * 0.4) + np.roll(noise, number, axis=0)).astype(dtype)
    return scene


def _dataset(words: np.ndarray):  # type: ignore[no-untyped-def]
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        UltrasoundMultiFrameImageStorage,
        generate_uid,
    )

    frames, rows, columns, samples = words.shape
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = UltrasoundMultiFrameImageStorage
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, generate_uid())
    dataset.Modality = "US"
    dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, samples
    dataset.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    if samples == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = words.dtype.itemsize * 8
    dataset.BitsStored = 12 if words.dtype.itemsize == 2 else 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = b""
    dataset["PixelData"].VR = "OW" if words.dtype.itemsize == 2 else "OB"
    return dataset


def _jpeg(frame: np.ndarray) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(frame).save(target, format="JPEG", quality=85, subsampling="4:2:2")
    return target.getvalue()


if __name__ == "__main__":
    main()
