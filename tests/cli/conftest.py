"""What the transcripts share: a home of their own, tiny models, pictures, and `miad` itself.

The models here are a few kilobytes and behave by construction, so that a transcript depends on
nothing but the program: `responsive` changes its mind over the faintest light on a black picture,
`stubborn` never does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    SegmentationStorage,
    generate_uid,
)

from miad_cli.app import run

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENT = "Musterfrau^Erika"
PATIENT_ID = "PID-4711-0815"

_SIDE = 32


@dataclass(frozen=True)
class Transcript:
    """What a run said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout as the one JSON object that it has to be."""
        return json.loads(self.out)

    def file(self, name: str) -> dict[str, Any]:
        """The entry of one file in the JSON object."""
        return next(one for one in self.json["files"] if one["name"] == name)


# --- Models -------------------------------------------------------------------------------


def _model(sensitive: bool) -> bytes:
    """Mean brightness behind a convolution; class 0 on black, class 1 on any light at all."""
    mean = np.full((4, 3, 3, 3), 1 / 27, np.float32)
    answer = np.zeros((4, 2), np.float32)
    if sensitive:
        answer[:, 1] = 1e6
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["cam"]),
            helper.make_node("GlobalAveragePool", ["cam"], ["p"]),
            helper.make_node("Flatten", ["p"], ["features"]),
            helper.make_node("Gemm", ["features", "a", "b"], ["brain_mri"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, _SIDE, _SIDE])],
        [
            helper.make_tensor_value_info("brain_mri", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4]),
        ],
        [
            numpy_helper.from_array(mean, "w"),
            numpy_helper.from_array(answer, "a"),
            numpy_helper.from_array(np.array([1e-3, 0], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models like the shipped one."""
    root = tmp_path_factory.mktemp("models")
    for name, sensitive in (("responsive", True), ("stubborn", False)):
        folder = root / name
        folder.mkdir()
        content = _model(sensitive)
        (folder / "model.onnx").write_bytes(content)
        (folder / "manifest.toml").write_text(
            f"""\
schema = 1
name = "{name}"
family = "tiny"
role = "classifier"
file = "model.onnx"
sha256 = "{hashlib.sha256(content).hexdigest()}"
[input]
tensor = "input"
rows = {_SIDE}
columns = {_SIDE}
[[outputs]]
task = "brain_mri"
tensor = "brain_mri"
kind = "logits"
labels = ["dark", "light"]
[features]
tensor = "features"
[cam]
tensor = "cam"
"""
        )
    return root


def _models_from(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have this process take `folder` for the models that ship."""
    patch.setattr("miad_cli.models.bank.models_directory", lambda: folder)


@pytest.fixture(autouse=True)
def _use_tiny_models(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each transcript by itself, so that tests elsewhere find the models that ship."""
    _models_from(tiny_models, monkeypatch)


# --- The program --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key folder of this test's own, and none of the user's settings."""
    for name in [name for name in os.environ if name.startswith("MIAD_")]:
        monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("home") / "miad"
    monkeypatch.setenv("MIAD_HOME", str(folder))
    monkeypatch.setenv("COLUMNS", "200")
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def miad(capfd: pytest.CaptureFixture[str]) -> Callable[..., Transcript]:
    """Run `miad` in this process."""

    def call(*arguments: object) -> Transcript:
        capfd.readouterr()
        code = run([str(one) for one in arguments])
        said = capfd.readouterr()
        return Transcript(code, said.out, said.err)

    return call


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    """The environment of a real process: this test's home, and the package importable."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "MIAD_HOME": str(home), "PYTHONPATH": path}


@pytest.fixture
def miad_process(environment: dict[str, str]) -> Callable[..., Transcript]:
    """Run `miad` as a process of its own, with the models that ship with it."""

    def call(*arguments: object) -> Transcript:
        done = subprocess.run(
            [sys.executable, "-m", "miad_cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            check=False,
            timeout=240,
        )
        return Transcript(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run somebody else's program. Where it is missing the test is skipped; in CI it fails."""

    def call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        if shutil.which(name) is None:
            message = f"{name} is not installed (Debian: dcmtk, dicom3tools)"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        return subprocess.run(
            [name, *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

    return call


# --- Pictures -----------------------------------------------------------------------------


class Maker:
    """Writes small files of every kind, the same each time."""

    patient = PATIENT
    patient_id = PATIENT_ID

    def logo(self, path: Path, colour: tuple[int, int, int, int] = (255, 255, 255, 255)) -> Path:
        picture = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
        picture.paste(colour, (2, 2, 22, 22))
        picture.save(path)
        return path

    def stored(self, seed: int = 1, side: int = 64, top: int = 4095) -> NDArray[np.uint16]:
        """(side, side) values 0..top: a bright disc with texture on a dark ground."""
        generator = np.random.default_rng(seed)
        y, x = np.mgrid[:side, :side] - side / 2
        disc = (np.hypot(x, y) < side / 3) * 0.6 + 0.2
        noisy = disc + generator.normal(0, 0.03, (side, side))
        return np.asarray(np.clip(noisy, 0, 1) * top).astype(np.uint16)

    def dataset(self, stored: NDArray[np.uint16], seed: int = 1) -> Dataset:
        made = Dataset()
        made.SOPClassUID = CTImageStorage
        made.SOPInstanceUID = generate_uid(entropy_srcs=["instance", str(seed)])
        made.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
        made.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
        made.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        made.Modality, made.BodyPartExamined = "CT", "HEAD"
        made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.PatientName, made.PatientID = PATIENT, PATIENT_ID
        made.SeriesNumber, made.InstanceNumber = 3, seed
        made.SeriesDescription = "Head"
        made.Rows, made.Columns = stored.shape
        made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
        made.PixelRepresentation = 0
        made.PixelSpacing = [0.5, 0.5]
        made.RescaleIntercept, made.RescaleSlope = -1024, 1
        made.WindowCenter, made.WindowWidth = 1023.5, 4096
        made.PixelData = stored.astype("<u2").tobytes()
        made["PixelData"].VR = "OW"
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return made

    def dicom(self, path: Path, seed: int = 1, **attributes: Any) -> Path:
        """A CT of 64 x 64 pixels and 12 bits. `black=True` leaves it without any light."""
        stored = self.stored(seed)
        if attributes.pop("black", False):
            stored[:] = 0
        made = self.dataset(stored, seed)
        for keyword, value in attributes.items():
            setattr(made, keyword, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save_as(path, enforce_file_format=True)
        return path

    def segmentation(self, path: Path) -> Path:
        made = self.dataset(np.zeros((64, 64), np.uint16))
        made.SOPClassUID, made.Modality = SegmentationStorage, "SEG"
        made.BitsAllocated = made.BitsStored = 1
        made.HighBit = 0
        made.PixelData = bytes(64 * 64 // 8)
        made["PixelData"].VR = "OB"
        made.save_as(path, enforce_file_format=True)
        return path

    def structured_report(self, path: Path) -> Path:
        made = Dataset()
        made.SOPClassUID, made.SOPInstanceUID = EnhancedSRStorage, generate_uid()
        made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
        made.Modality = "SR"
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.save_as(path, enforce_file_format=True)
        return path

    def grey(self, bits: int = 8) -> NDArray[np.unsignedinteger[Any]]:
        """(64, 64), with values that need all of `bits`."""
        wide = self.stored(top=(1 << bits) - 1)
        return wide if bits == 16 else wide.astype(np.uint8)

    def colour(self, bits: int = 8, samples: int = 3) -> NDArray[np.unsignedinteger[Any]]:
        """(64, 64, samples); a fourth sample is transparency, opaque but for a corner."""
        planes = [self.stored(seed, top=(1 << bits) - 1) for seed in range(3)]
        if samples == 4:
            opaque = np.full((64, 64), (1 << bits) - 1, np.uint16)
            opaque[:8, :8] = 7
            planes.append(opaque)
        stacked = np.stack(planes, axis=-1)
        return stacked if bits == 16 else stacked.astype(np.uint8)

    def raster(self, path: Path, samples: NDArray[Any], **options: Any) -> Path:
        """What Pillow writes for the suffix of `path`; PNG of 16-bit colour by hand."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if samples.dtype == np.uint16 and samples.ndim == 3:
            path.write_bytes(_wide_png(samples))
        else:
            Image.fromarray(samples).save(path, **options)
        return path


def _wide_png(samples: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a sample, which Pillow cannot write, by the letter of its standard."""
    rows, columns, count = samples.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = struct.pack(">IIBBBBB", columns, rows, 16, {3: 2, 4: 6}[count], 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="session")
def make() -> Maker:
    return Maker()


@pytest.fixture
def logo(work: Path, make: Maker) -> Path:
    """`hospital.png` in the working folder."""
    return make.logo(work / "hospital.png")


@pytest.fixture
def heads(work: Path) -> Path:
    """A profile of the task that the tiny models know; that which ships wants networks that they
    are not."""
    path = work / "heads.toml"
    path.write_text(
        'name = "heads"\ntitle = "Heads"\n\n[models]\ntask = "brain_mri"\n', encoding="utf-8"
    )
    return path


@pytest.fixture
def study(work: Path, make: Maker) -> Path:
    """`study/` in the working folder: one.dcm and deep/two.dcm."""
    make.dicom(work / "study" / "one.dcm", 1)
    make.dicom(work / "study" / "deep" / "two.dcm", 2)
    return work / "study"


# --- A protected study, made once ---------------------------------------------------------


@dataclass(frozen=True)
class Sealed:
    """A study protected once for all tests, copied for this one."""

    study: Path
    protected: Path
    key: Path
    owner: Path
    home: Path


@pytest.fixture(scope="session")
def _sealed_once(tmp_path_factory: pytest.TempPathFactory, make: Maker, tiny_models: Path) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    for number, name in enumerate(("one.dcm", "two.dcm"), start=1):
        make.dicom(folder / "study" / name, number)
    make.raster(folder / "study" / "photo.png", make.colour())
    make.logo(folder / "hospital.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAD_HOME", str(folder / "home"))
        _models_from(tiny_models, patch)
        for payload in ("auto", "original"):
            code = run(
                [
                    "protect",
                    str(folder / "study"),
                    f"--logo={folder / 'hospital.png'}",
                    f"--output={folder / ('protected' if payload == 'auto' else 'whole')}",
                    f"--key-out={folder / 'key.txt'}",
                    f"--payload={payload}",
                    "--search=random",
                    "--quiet",
                ]
            )
            assert code == 0
    return folder


@pytest.fixture
def sealed(_sealed_once: Path, work: Path, home: Path) -> Sealed:
    """`originals/` and `protected/` with their key; this test's home holds the owner's key."""
    shutil.copytree(_sealed_once / "study", work / "originals")
    shutil.copytree(_sealed_once / "protected", work / "protected")
    shutil.copyfile(_sealed_once / "key.txt", work / "key.txt")
    (work / "key.txt").chmod(0o600)
    shutil.copytree(_sealed_once / "home", home)
    return Sealed(
        work / "originals", work / "protected", work / "key.txt", home / "owner.pub.pem", home
    )


@pytest.fixture
def sealed_whole(sealed: Sealed, _sealed_once: Path) -> Sealed:
    """The same, but every payload holds the original itself."""
    shutil.rmtree(sealed.protected)
    shutil.copytree(_sealed_once / "whole", sealed.protected)
    return sealed


# --- What is left -------------------------------------------------------------------------


@pytest.fixture
def left() -> Callable[[Path], list[str]]:
    """Every file below a folder, with its path; none where the folder is not there."""

    def listing(folder: Path) -> list[str]:
        return sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )

    return listing


@pytest.fixture
def digests() -> Callable[[Path], dict[str, str]]:
    """SHA-256 of every file below a folder, sidecars left out."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".miad"
        }

    return of
