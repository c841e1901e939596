"""Peak memory and time of `miad protect` over a series, as ratios against a shorter series.

The series are made here: axial CT slices of 512 x 512 x 16 bit with geometry. Each is protected
by a process of its own, as a user would start it, and the operating system says what that took.
Memory must not grow with the number of slices: ends with 1 where the peak of a longer series is
more than 10 % above that of the first.

A volume is searched for one mark, and δ is fitted to each slice: `--search random` spares the
search, which counts for more the shorter a series is; `--search default` leaves it to the profile.

    python -m benchmarks.scale --n 100 1000
    python -m benchmarks.scale --n 10 1000 --search default --effort fast --profile brain-mri
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from miad_cli.demo import draw_logo

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measured:
    """One run: peak resident memory in MiB, seconds from start to end, and of processor time, all
    threads together."""

    slices: int
    peak: float
    seconds: float
    cpu: float


def main() -> None:
    options = _options()
    measured = []
    for slices in options.n:
        with tempfile.TemporaryDirectory(dir=options.work) as place:
            measured.append(_measure(Path(place), slices, options))
        _print(measured[-1], measured[0])
    worst = max(one.peak for one in measured) / measured[0].peak
    raise SystemExit(1 if worst > options.within else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[100, 1000], help="slices")
    parser.add_argument("--side", type=int, default=512, help="rows and columns")
    parser.add_argument(
        "--search",
        default="random",
        choices=("default", "guided", "random", "he", "he-sit"),
        help="default: what the profile says",
    )
    parser.add_argument("--effort", choices=("fast", "standard", "max"), help="of the guided one")
    parser.add_argument("--profile", help="default: what fits a CT without a body part")
    parser.add_argument("--model", default="", help="only this model; default: all")
    parser.add_argument("--within", type=float, default=1.1, help="how far peaks may lie apart")
    parser.add_argument("--work", type=Path, help="where the series lie meanwhile")
    return parser.parse_args()


def _print(one: Measured, first: Measured) -> None:
    print(
        f"{one.slices} slices: peak {one.peak:.0f} MiB (x {one.peak / first.peak:.2f}), "
        f"{one.seconds:.0f} s, {one.slices / one.seconds:.1f} slices/s "
        f"(x {one.slices * first.seconds / (one.seconds * first.slices):.2f}), "
        f"{one.cpu:.0f} s of CPU time",
        flush=True,
    )
    more = one.slices - first.slices
    if more > 0:
        print(
            f"each slice beyond {first.slices}: {(one.seconds - first.seconds) / more:.3f} s, "
            f"{(one.cpu - first.cpu) / more:.3f} s of CPU time, "
            f"{1024 * (one.peak - first.peak) / more:.0f} KiB",
            flush=True,
        )


def _measure(place: Path, slices: int, options: argparse.Namespace) -> Measured:
    (place / "series").mkdir()
    uids = generate_uid(), generate_uid(), generate_uid()
    for number in range(slices):
        made = _slice(number, options.side, *uids)
        (place / "series" / f"{number:05}.dcm").write_bytes(made)
    draw_logo(place / "logo.png")
    wishes = {"--models": options.model, "--effort": options.effort, "--profile": options.profile}
    wishes |= {"--search": options.search} if options.search != "default" else {}
    given = [part for name, value in wishes.items() if value for part in (name, value)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "miad_cli", "protect", "series", "-o", "out", "-q", "--no-input",
            "--logo", "logo.png", "--key-out", "key.txt", *given,
        ],
        cwd=place,
        env={**os.environ, "MIAD_HOME": str(place / "home"), "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    written = len(list((place / "out").rglob("*.dcm")))
    if process.returncode or written != slices:
        raise SystemExit(f"protect ended with {process.returncode}; {written} of {slices} written")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Measured(slices, used.ru_maxrss / unit, seconds, used.ru_utime + used.ru_stime)


def _slice(number: int, side: int, study: str, series: str, frame_of_reference: str) -> bytes:
    """One axial slice: a bright disc in noise, at its place in the patient."""
    generator = np.random.default_rng(number)
    rows, columns = np.mgrid[:side, :side]
    body = np.hypot(rows - side / 2, columns - side / 2) < side * 0.4
    values = np.where(body, 1040, 24) + generator.normal(0, 20, (side, side))
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.FrameOfReferenceUID = frame_of_reference
    made.Modality, made.SeriesNumber, made.InstanceNumber = "CT", 1, number + 1
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.Rows = made.Columns = side
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.PixelSpacing, made.SliceThickness = [0.7, 0.7], 1
    made.ImagePositionPatient = [-179.2, -179.2, number]
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.RescaleIntercept, made.RescaleSlope = -1024, 1
    made.WindowCenter, made.WindowWidth = 40, 400
    made.PixelData = values.clip(0, 65535).astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    target = BytesIO()
    made.save_as(target, enforce_file_format=True)
    return target.getvalue()


if __name__ == "__main__":
    main()
