"""Random damage to protected files and containers: what becomes of them is counted.

`python -m tests.security.mutate --n 10000` prints the counts of verdicts, and fails when a
mutation broke one of the rules: no other error than ours, no restoration but the original's bytes,
no good verdict where pixels or manifest are not the ones that were sealed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from helpers import (
    OWNER,
    build_dicom,
    build_png,
    marking_of,
    noisy_logo,
    picture_of,
    ramp,
    sealing_for,
)
from pydicom import dcmread
from pyrage import x25519

from miad_cli.errors import MiadError, PictureFailed
from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.picture import container_in, read_picture
from miad_cli.imaging.raster import RasterPicture, read_raster
from miad_cli.instance import write_instance
from miad_cli.seal.carriers import sidecar_of
from miad_cli.seal.container import parse
from miad_cli.unlock import unlock
from miad_cli.verify import Verdict, verify_file
from miad_cli.watermark.blend import Mark

IDENTITY = x25519.Identity.generate()


@dataclass(frozen=True)
class Subject:
    """What is damaged: the file, or the container in the sidecar of a file without one."""

    name: str
    suffix: str
    protected: bytes
    sidecar: bytes | None
    original: bytes

    @property
    def target(self) -> bytes:
        return self.protected if self.sidecar is None else self.sidecar


@dataclass
class Tally:
    """Verdicts by subject, how many still gave the original back, and broken rules."""

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    restored: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        counts = [
            f"{n:6} {name}: {verdict}" for (name, verdict), n in sorted(self.verdicts.items())
        ]
        counts += [f"{n:6} {name}: original restored" for name, n in sorted(self.restored.items())]
        return [*counts, f"{len(self.broken):6} broken rules", *self.broken]


def subjects(folder: Path) -> list[Subject]:
    """Small protected files of every kind."""
    words = ramp(24, 32)
    dicom = build_dicom(words, bits_stored=12, WindowCenter=2000, WindowWidth=4000,
                        PixelSpacing=[0.5, 0.5], PatientName="Nobody")  # fmt: skip
    samples = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    png = build_png(samples)
    return [
        _subject(folder, "dicom, compact", dicom, "compact", "embed"),
        _subject(folder, "dicom, original", dicom, "original", "embed"),
        _subject(folder, "png", png, "original", "embed"),
        _subject(folder, "container, compact", dicom, "compact", "sidecar"),
        _subject(folder, "container, original", dicom, "original", "sidecar"),
    ]


def _subject(folder: Path, name: str, original: bytes, payload: str, carrier: str) -> Subject:
    is_png = original.startswith(b"\x89PNG")
    picture = read_raster(original) if is_png else picture_of(dcmread(BytesIO(original)))
    path = folder / f"{name}{'.png' if is_png else '.dcm'}"
    mark = Mark(3, 2, 200, noisy_logo(8, 10))
    sealing = sealing_for(IDENTITY.to_public(), payload, carrier)
    write_instance(
        path, f"original{path.suffix}", picture, marking_of(picture.image, mark), sealing
    )
    sidecar = sidecar_of(path).read_bytes() if carrier == "sidecar" else None
    return Subject(name, path.suffix, path.read_bytes(), sidecar, picture.content)


def mutated(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """`content` after one accident."""
    kind = draw.choice(("flip", "flip", "flips", "cut", "drop", "repeat", "insert", "splice"))
    start, length = draw.randrange(len(content)), draw.choice((1, 2, 16, 300))
    if kind in ("flip", "flips"):
        broken = bytearray(content)
        for _ in range(1 if kind == "flip" else draw.randint(2, 8)):
            broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        return bytes(broken)
    if kind == "cut":
        return content[:start]
    if kind == "drop":
        return content[:start] + content[start + length :]
    if kind == "repeat":
        return content[: start + length] + content[start:]
    if kind == "insert":
        return content[:start] + draw.randbytes(length) + content[start:]
    other = draw.choice(others)
    start = min(start, len(other))
    return content[:start] + other[start : start + length] + content[start + length :]


def run(count: int, seed: int, folder: Path) -> Tally:
    """Damage, verify and unlock `count` times."""
    draw, tally = random.Random(seed), Tally()
    made = subjects(folder)
    targets = [one.target for one in made]
    for number in range(count):
        subject = made[number % len(made)]
        content = mutated(subject.target, targets, draw)
        path = folder / f"x{subject.suffix}"
        if subject.sidecar is None:
            path.write_bytes(content)
        else:
            path.write_bytes(subject.protected)
            sidecar_of(path).write_bytes(content)
        try:
            _examine(subject, path, content, folder / "out", tally)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            tally.broken.append(f"{number} {subject.name}: {type(error).__name__}: {error}")
        sidecar_of(path).unlink(missing_ok=True)
    return tally


def _examine(subject: Subject, path: Path, content: bytes, out: Path, tally: Tally) -> None:
    public = verify_file(path, [OWNER.public])
    private = verify_file(path, [OWNER.public], [IDENTITY])
    tally.verdicts[subject.name, public.verdict.value] += 1
    for found in (public, private):
        # A file that is no picture at all is nobody's; alone it ends with exit 4, not with 0.
        good = found.exit_code == 0 and found.verdict is not Verdict.NO_PICTURE
        if good and not _is_as_sealed(subject, path):
            raise AssertionError(f"called {found.verdict.value}")
    if public.exit_code and not private.exit_code:
        raise AssertionError("a key made it good")
    if content.startswith(subject.target[:132]) and public.verdict is Verdict.NO_PICTURE:
        raise AssertionError("left out")
    restored = unlock([path], out, [IDENTITY], on_exists="replace")
    (outcome,) = restored.outcomes
    if outcome.exit_code not in (0, 3, 6, 7):
        raise AssertionError(f"unlock ended with {outcome.exit_code}: {outcome.reason}")
    if outcome.output is None:
        return
    if (out / outcome.output).read_bytes() != subject.original:
        raise AssertionError("a wrong restoration")
    tally.restored[subject.name] += 1


def _is_as_sealed(subject: Subject, path: Path) -> bool:
    """Decoded pixels and the manifest are the ones from before the accident."""
    try:
        now = read_picture(path.read_bytes(), path)
        before = read_picture(subject.protected, path)
        assert isinstance(now, DicomPicture | RasterPicture)
        assert isinstance(before, DicomPicture | RasterPicture)
        sealed = parse(subject.sidecar or container_in(before) or b"")
        copies = (container_in(now), subject.sidecar and sidecar_of(path).read_bytes())
        manifests = [parse(copy).manifest for copy in copies if copy]
    except (PictureFailed, MiadError, AssertionError):
        return False
    return manifests == [sealed.manifest] and np.array_equal(now.image.stored, before.image.stored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        tally = run(options.n, options.seed, Path(folder))
    print("\n".join(tally.lines()))
    sys.exit(bool(tally.broken))


if __name__ == "__main__":
    main()
