"""How fast `verify` is, beside SHA-256 over the same files read through pydicom.

Both run over the same folder, alternately, in one process and on one thread; the ratio of their
best rounds is printed. The folder is made here: synthetic CT slices, protected without any model.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pyrage import x25519

from miad_cli.imaging.dicom import DicomPicture, read_dicom
from miad_cli.instance import Sealing, write_instance
from miad_cli.seal.identities import Recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.verify import Report, Verdict, verify
from miad_cli.watermark.blend import Mark, blend, tone_for
from miad_cli.watermark.ensemble import Opinion
from miad_cli.watermark.logo import UNCHANGED
from miad_cli.watermark.marking import Decision, Lesions, Marking


def main() -> None:
    options = _options()
    owner = OwnerKey.generate()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _fill(folder, owner, options)
        files = sorted(folder.rglob("*.dcm"))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        before = _peak_memory()
        measured = _measure(folder, files, owner, options.rounds)
        if options.profile:
            _profile(folder, owner)
    print(f"{len(files)} files, {size / 1e6:.0f} MB with sidecars, {options.rounds} rounds")
    for name, seconds in measured.items():
        print(f"{name}: {seconds:.2f} s, {len(files) / seconds:.0f} files/s")
    for name in ("bytes", "pixels"):
        ratio = measured[f"sha256 of {name}"] / measured["verify"]
        print(f"verify / sha256 of {name} after pydicom read the file: {ratio:.2f}")
    print(f"peak memory grew by {(_peak_memory() - before) >> 10} MiB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--copies-of", type=int, default=20, help="different pictures among them")
    parser.add_argument("--side", type=int, default=512, help="rows and columns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--carrier", choices=("both", "embed", "sidecar"), default="both")
    parser.add_argument("--profile", action="store_true", help="also print where the time goes")
    return parser.parse_args()


def _measure(folder: Path, files: list[Path], owner: OwnerKey, rounds: int) -> dict[str, float]:
    def verified() -> None:
        report = verify([folder], [owner.public])
        if report.count(Verdict.AUTHENTIC) != len(files):
            raise SystemExit(f"not all authentic: {_counts(report)}")

    steps: dict[str, Callable[[], None]] = {
        "sha256 of bytes": lambda: _hash_bytes(files),
        "sha256 of pixels": lambda: _hash_pixels(files),
        "verify": verified,
    }
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def _hash_bytes(files: list[Path]) -> None:
    """`sha256sum` of every file that pydicom has parsed."""
    for path in files:
        dcmread(path)
        hashlib.sha256(path.read_bytes()).hexdigest()


def _hash_pixels(files: list[Path]) -> None:
    """SHA-256 of the pixels as pydicom gives them."""
    for path in files:
        hashlib.sha256(dcmread(path).pixel_array.tobytes()).hexdigest()


def _counts(report: Report) -> dict[str, int]:
    return {verdict.value: report.count(verdict) for verdict in Verdict if report.count(verdict)}


def _profile(folder: Path, owner: OwnerKey) -> None:
    with cProfile.Profile() as profiler:
        verify([folder], [owner.public])
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _fill(folder: Path, owner: OwnerKey, options: argparse.Namespace) -> None:
    """Different protected pictures, then copies of them, each with its sidecar."""
    recipient = Recipient(str(x25519.Identity.generate().to_public()))
    sealing = Sealing(owner, (recipient,), (b"",), "0" * 64, "auto", options.carrier)
    for number in range(options.files):
        target = folder / f"{number // 1000:03}" / f"{number:06}.dcm"
        source = folder / "000" / f"{number % options.copies_of:06}.dcm"
        if number < options.copies_of:
            _protect(target, number, options.side, sealing)
            continue
        target.parent.mkdir(exist_ok=True)
        for path in source.parent.glob(f"{source.name}*"):
            (target.parent / path.name.replace(source.stem, target.stem)).write_bytes(
                path.read_bytes()
            )


def _protect(target: Path, number: int, side: int, sealing: Sealing) -> None:
    picture = read_dicom(_slice(number, side))
    assert isinstance(picture, DicomPicture)
    image = picture.image
    mark = Mark(side // 8, side // 8, 120, np.full((side // 8, side // 8, 4), 200, np.uint8))
    tone = tone_for((image.window.low, image.window.high), image.bounds, False, image.padding)
    nothing = Opinion((), ())
    marking = Marking(
        stored=blend(image.stored, mark, tone),
        decision=Decision(mark, UNCHANGED, 8, Lesions((), "none"), queries=0),
        tone=tone,
        clean=nothing,
        marked=nothing,
        label=None,
    )
    write_instance(target, "slice.dcm", picture, marking, sealing)


def _slice(number: int, side: int) -> bytes:
    from io import BytesIO

    generator = np.random.default_rng(number)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.Modality, made.PatientName, made.PatientID = "CT", "Nobody^At All", "0"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.Rows = made.Columns = side
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = 0
    made.PixelSpacing, made.SliceThickness = [0.7, 0.7], 1
    made.ImagePositionPatient = [-150, -150, number]
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.RescaleIntercept, made.RescaleSlope = -1024, 1
    made.WindowCenter, made.WindowWidth = 40, 400
    made.PixelData = generator.normal(1000, 40, (side, side)).astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    target = BytesIO()
    made.save_as(target, enforce_file_format=True)
    return target.getvalue()


if __name__ == "__main__":
    main()
