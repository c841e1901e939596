"""How fast `verify` is, beside SHA-256 over the same files read through pydicom.

The baselines read each file once, have pydicom parse it, take out Pixel Data, and hash: the file's
bytes, or Pixel Data, or (slower, since it is decoded) `pixel_array`. They run in one process on one
thread. `verify` runs over the same folder, in one process and in several, their start included.
All take turns; what is printed is the median over the rounds of the ratio within a round, of time
on the clock and, for one process, of processor time, which other programs disturb less.

The folder is made here: CT slices, 512 x 512 and 16 bits, sealed without any model. Beyond
`--copies-of` they are hard links, so that all of them stay in the page cache; that makes it a
measure of the program, not of a disk.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import os
import pstats
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pyrage import x25519

from miad_cli.imaging.derivation import embed_container, encode_instance
from miad_cli.imaging.picture import evidence_of, identify, read_picture
from miad_cli.seal.carriers import sidecar_of
from miad_cli.seal.container import Draft, seal
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey
from miad_cli.verify import Report, Verdict, verify

Seconds = tuple[float, float]
"""On the clock, and of processor time of this process."""

BASELINES = ("file", "Pixel Data", "pixel_array")


def main() -> None:
    options = _options()
    if options.only:
        _only(*options.only)
        return
    with tempfile.TemporaryDirectory() as made:
        folder, owner = Path(made) / "files", OwnerKey.generate()
        owner.public.save(Path(made) / "owner.pub.pem")
        files = _fill(folder, owner, options)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{len(files)} files, {size / 1e6:.0f} MB with sidecars, {options.rounds} rounds")
        _compare(_measure(folder, files, owner, options), options)
        if options.profile:
            _profile(folder, owner)
        for count in options.memory:
            options.files = count
            _fill(folder, owner, options)
            for jobs in (1, options.jobs):
                peak = _peak_memory(folder, Path(made) / "owner.pub.pem", jobs)
                print(f"{count} files, jobs {jobs}: {peak >> 20} MiB at most, all processes")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--copies-of", type=int, default=100, help="different pictures among them")
    parser.add_argument("--side", type=int, default=512, help="rows and columns")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--payload", type=int, default=32 << 10, help="bytes that are sealed")
    parser.add_argument("--carrier", choices=("both", "embed", "sidecar"), default="both")
    parser.add_argument("--profile", action="store_true", help="also print where the time goes")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[], help="peak memory over this many files (Linux)"
    )
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(
    folder: Path, files: list[Path], owner: OwnerKey, options: argparse.Namespace
) -> dict[str, list[Seconds]]:
    """What each step took in each round."""
    steps: dict[str, Callable[[], None]] = {
        "file": lambda: _hash_files(files),
        "Pixel Data": lambda: _hash_pixel_data(files),
        "pixel_array": lambda: _hash_arrays(files),
        "jobs 1": lambda: _verify(folder, owner.public, 1, len(files)),
    }
    if options.jobs > 1:
        steps[f"jobs {options.jobs}"] = lambda: _verify(
            folder, owner.public, options.jobs, len(files)
        )
    for step in steps.values():
        step()  # files into the page cache, the server that forks workers into memory
    taken: dict[str, list[Seconds]] = {name: [] for name in steps}
    for number in range(options.rounds):
        order = list(steps.items())
        for name, step in order if number % 2 else reversed(order):
            clock, processor = time.perf_counter(), time.process_time()
            step()
            taken[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return taken


def _compare(taken: dict[str, list[Seconds]], options: argparse.Namespace) -> None:
    for name, rounds in taken.items():
        median = statistics.median(clock for clock, _ in rounds)
        print(f"{name}: {median:.3f} s, {options.files / median:.0f} files/s")
    for name, ours in taken.items():
        for baseline in BASELINES if name not in BASELINES else ():
            theirs = taken[baseline]
            said = _ratio([one[0] for one in theirs], [one[0] for one in ours])
            if name == "jobs 1":
                processor = _ratio([one[1] for one in theirs], [one[1] for one in ours])
                said += f"; processor time {processor}"
            print(f"verify, {name} / SHA-256 of {baseline} after pydicom: {said}")


def _ratio(theirs: list[float], ours: list[float]) -> str:
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _hash_files(files: list[Path]) -> None:
    for path in files:
        content = path.read_bytes()
        assert dcmread(BytesIO(content)).PixelData
        hashlib.sha256(content).hexdigest()


def _hash_pixel_data(files: list[Path]) -> None:
    for path in files:
        hashlib.sha256(dcmread(path).PixelData).hexdigest()


def _hash_arrays(files: list[Path]) -> None:
    for path in files:
        hashlib.sha256(dcmread(path).pixel_array.tobytes()).hexdigest()


def _verify(folder: Path, owner: OwnerPublicKey, jobs: int, count: int) -> None:
    report = verify([folder], [owner], jobs=jobs)
    if report.count(Verdict.AUTHENTIC) != count:
        raise SystemExit(f"not all authentic: {_counts(report)}")


def _counts(report: Report) -> dict[str, int]:
    return {verdict.value: report.count(verdict) for verdict in Verdict if report.count(verdict)}


def _profile(folder: Path, owner: OwnerKey) -> None:
    with cProfile.Profile() as profiler:
        verify([folder], [owner.public])
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)


# --- Memory -------------------------------------------------------------------------------


def _only(folder: str, owner: str, jobs: str) -> None:
    """Verify and nothing else: what a run of its own is measured over."""
    report = verify([Path(folder)], [OwnerPublicKey.load(Path(owner))], jobs=int(jobs))
    raise SystemExit(report.exit_code)


def _peak_memory(folder: Path, owner: Path, jobs: int) -> int:
    """Bytes that a run and all its processes had at most, shared pages counted once."""
    line = [sys.executable, __file__, "--only", str(folder), str(owner), str(jobs)]
    run, peak = subprocess.Popen(line, start_new_session=True), 0
    while run.poll() is None:
        peak = max(peak, sum(map(_memory_of, _session(run.pid))))
        time.sleep(0.05)
    if run.returncode:
        raise SystemExit(f"verify ended with {run.returncode}")
    return peak


def _session(leader: int) -> list[int]:
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(process)) == leader:
                found.append(int(process))
        except OSError:
            continue
    return found


def _memory_of(process: int) -> int:
    """Proportional set size: a page that n processes share counts an nth."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


# --- Files --------------------------------------------------------------------------------


def _fill(folder: Path, owner: OwnerKey, options: argparse.Namespace) -> list[Path]:
    """Sealed pictures, then links to them, with their sidecars; those that are there stay."""
    files = [
        folder / f"{number // 1000:03}" / f"{number:06}.dcm" for number in range(options.files)
    ]
    for number, target in enumerate(files):
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source = files[number % options.copies_of]
        if number < options.copies_of:
            _write_sealed(target, _slice(number, options.side), owner, options)
            continue
        target.hardlink_to(source)
        if sidecar_of(source).exists():
            sidecar_of(target).hardlink_to(sidecar_of(source))
    return files


def _write_sealed(
    target: Path, dataset: Dataset, owner: OwnerKey, options: argparse.Namespace
) -> None:
    """The data set as a file, with a container that is true of it but holds noise."""
    picture = read_picture(encode_instance(dataset), target)
    assert picture is not None and not hasattr(picture, "reason")
    identity, evidence = identify(picture), evidence_of(picture)
    draft = Draft(
        subject=identity.subject,
        pixels_sha256=identity.pixels_sha256,
        pixel_data_sha256=identity.pixel_data_sha256,
        attributes_sha256=identity.attributes_sha256,
        tiles=evidence.tiles,
        attributes=evidence.attributes,
        job="0" * 64,
        payload_mode="compact",
        tool="benchmark",
    )
    reader = x25519.Identity.generate().to_public()
    container = seal(draft, secrets.token_bytes(options.payload), [reader], owner)
    if options.carrier != "sidecar":
        embed_container(dataset, container)
    target.write_bytes(encode_instance(dataset))
    if options.carrier != "embed":
        sidecar_of(target).write_bytes(container)


def _slice(number: int, side: int) -> Dataset:
    generator = np.random.default_rng(number)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.FrameOfReferenceUID = generate_uid()
    made.Modality, made.PatientName, made.PatientID = "CT", "Nobody^At All", "0"
    made.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    made.StudyDate, made.StudyTime, made.StudyDescription = "20200101", "120000", "Head"
    made.InstanceNumber, made.SeriesNumber = number + 1, 3
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
    return made


if __name__ == "__main__":
    main()
