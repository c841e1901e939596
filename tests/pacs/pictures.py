"""Protected pictures without any model: a mark is put where it is told to be."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from helpers import OWNER, build_dataset, encode, marking_of, opaque_logo, sealing_for
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pyrage import x25519

from miad_cli.app import run
from miad_cli.imaging.dicom import DicomPicture, read_dicom
from miad_cli.instance import write_instance
from miad_cli.watermark.blend import Mark

PATIENT = "Musterfrau^Erika"
PATIENT_ID = "PID-4711-0815"


@dataclass(frozen=True)
class Study:
    """A protected study.

    Attributes:
        originals, protected: the folders; the same names in both.
        home: this machine's data directory, which trusts the owner.
        key: the identity that opens.
    """

    originals: Path
    protected: Path
    home: Path
    key: Path

    @property
    def files(self) -> list[Path]:
        """The protected files, without sidecars."""
        return sorted(self.protected.rglob("*.dcm"))

    @property
    def uids(self) -> list[str]:
        """Their SOP Instance UIDs."""
        return [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in self.files]


def slice_of(number: int, side: int = 32, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """A CT slice of `side` x `side` noise of 12 bits."""
    generator = np.random.default_rng(number)
    words = generator.integers(0, 4096, (1, side, side, 1), np.uint16)
    return build_dataset(
        words,
        bits_stored=12,
        syntax=syntax,
        PatientName=PATIENT,
        PatientID=PATIENT_ID,
        PatientBirthDate="19570101",
        StudyDate="20200101",
        AccessionNumber="A1",
        SOPInstanceUID=generate_uid(),
        InstanceNumber=number,
        SeriesNumber=3,
        PixelSpacing=[0.5, 0.5],
        WindowCenter=2048,
        WindowWidth=4096,
    )


def protect_file(
    source: Path, target: Path, recipient: object, *, carrier: str = "both", series: bytes = b""
) -> None:
    """Put a mark on one file and seal it, as `protect` would."""
    picture = read_dicom(source.read_bytes())
    assert isinstance(picture, DicomPicture)
    side = max(2, picture.image.rows // 8)
    mark = Mark(1, 1, 120, opaque_logo(side, side))
    sealing = replace(sealing_for(recipient, carrier=carrier), series_parts=(series,))
    write_instance(target, source.name, picture, marking_of(picture.image, mark), sealing)


def trusting_home() -> Path:
    """This machine's data directory, which trusts the owner of these pictures."""
    home = Path(os.environ["MIAD_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "owner.pub.pem").exists():
        OWNER.public.save(home / "owner.pub.pem")
    return home


def copy_study(study: Study, folder: Path) -> Study:
    """The same study again, for a test that may spoil it."""
    for place in (study.originals, study.protected):
        shutil.copytree(place, folder / place.name)
    shutil.copy2(study.key, folder / study.key.name)
    return Study(
        folder / study.originals.name,
        folder / study.protected.name,
        trusting_home(),
        folder / study.key.name,
    )


def make_study(folder: Path, slices: int = 3, side: int = 32, carrier: str = "both") -> Study:
    """Slices of two series, with UIDs that nobody had before."""
    folder.mkdir(parents=True, exist_ok=True)
    originals, protected = folder / "study", folder / "study-protected"
    home = trusting_home()
    identity = x25519.Identity.generate()
    key = folder / "key.txt"
    key.write_text(str(identity))
    key.chmod(0o600)
    study_uid = generate_uid()
    series = [generate_uid(), generate_uid()]
    for number in range(slices):
        dataset = slice_of(number, side)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series[number % 2]
        place = Path(f"s{number % 2}") / f"{number:04}.dcm"
        (originals / place).parent.mkdir(parents=True, exist_ok=True)
        (originals / place).write_bytes(encode(dataset))
        protect_file(originals / place, protected / place, identity.to_public(), carrier=carrier)
    return Study(originals, protected, home, key)


def miad(*arguments: object) -> int:
    """Run `miad` in this process."""
    return run([str(one) for one in arguments])
