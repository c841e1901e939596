"""What tests make: DICOM files, PNG files, logos, markings and very small ONNX models."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from miad_cli.imaging.dicom import DicomPicture, read_dicom
from miad_cli.imaging.image import MedicalImage
from miad_cli.instance import Sealing
from miad_cli.seal.identities import Recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.watermark.blend import Mark, Tone, blend, tone_for
from miad_cli.watermark.ensemble import Opinion
from miad_cli.watermark.lesions import Lesions
from miad_cli.watermark.logo import UNCHANGED
from miad_cli.watermark.marking import Decision, Marking

OWNER = OwnerKey(ed25519.Ed25519PrivateKey.from_private_bytes(b"o" * 32))

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


# --- DICOM ------------------------------------------------------------------------------------


def pixel_data_of(words: np.ndarray, *, big_endian: bool, planar: bool, swapped: bool) -> bytes:
    """PS3.5 8.1.1 written out: words (frames, rows, columns, samples) as a Pixel Data value."""
    laid = words.transpose(0, 3, 1, 2) if planar else words
    value = laid.astype(words.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    value += b"\0" * (len(value) % 2)
    if swapped:
        value = b"".join(value[i + 1 : i + 2] + value[i : i + 1] for i in range(0, len(value), 2))
    return value


def build_dataset(
    words: np.ndarray,
    *,
    bits_stored: int | None = None,
    high_bit: int | None = None,
    signed: bool = False,
    syntax: str = ExplicitVRLittleEndian,
    photometric: str = "",
    planar: bool = False,
    as_ow: bool = False,
    **attributes: Any,
) -> Dataset:
    """A native instance that holds `words`, (frames, rows, columns, samples) unsigned."""
    frames, rows, columns, samples = words.shape
    allocated = words.dtype.itemsize * 8
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = CT_IMAGE
    dataset.SOPInstanceUID = "1.2.3.4.5.6"
    dataset.StudyInstanceUID = "1.2.3.4.1"
    dataset.SeriesInstanceUID = "1.2.3.4.2"
    dataset.Modality = "CT"
    dataset.SamplesPerPixel = samples
    dataset.PhotometricInterpretation = photometric or ("MONOCHROME2" if samples == 1 else "RGB")
    if samples > 1:
        dataset.PlanarConfiguration = int(planar)
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = allocated
    dataset.BitsStored = bits_stored or allocated
    dataset.HighBit = dataset.BitsStored - 1 if high_bit is None else high_bit
    dataset.PixelRepresentation = int(signed)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    big = syntax == ExplicitVRBigEndian
    swapped = big and allocated == 8 and as_ow
    dataset.PixelData = pixel_data_of(
        words, big_endian=big, planar=planar and samples > 1, swapped=swapped
    )
    dataset["PixelData"].VR = "OW" if as_ow or allocated > 8 else "OB"
    return dataset


def encode(dataset: Dataset) -> bytes:
    target = BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def build_dicom(words: np.ndarray, **settings: Any) -> bytes:
    return encode(build_dataset(words, **settings))


def picture_of(dataset: Dataset) -> DicomPicture:
    """The data set, written and read."""
    picture = read_dicom(encode(dataset))
    assert isinstance(picture, DicomPicture)
    return picture


def ramp(rows: int = 12, columns: int = 16, top: int = 4095, dtype: str = "u2") -> np.ndarray:
    """(1, rows, columns, 1) words that rise from 0 to `top`."""
    values = np.linspace(0, top, rows * columns).astype(dtype)
    return values.reshape(1, rows, columns, 1)


# --- PNG --------------------------------------------------------------------------------------

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
          (1, 0, 2, 1))  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def build_png(
    samples: np.ndarray, *, interlaced: bool = False, chunks: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """A PNG of (rows, columns, 1 to 4) uint8 or uint16, written by hand (PNG 2nd edition)."""
    rows, columns, count = samples.shape
    bits = samples.dtype.itemsize * 8
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    lines = []
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        if part.size:
            lines += [b"\0" + line.astype(f">u{bits // 8}").tobytes() for line in part]
    header = struct.pack(
        ">IIBBBBB", columns, rows, bits, _COLOUR_TYPES[count], 0, 0, int(interlaced)
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(*one) for one in chunks)
        + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        + chunk(b"IEND", b"")
    )


# --- Logo and marking -------------------------------------------------------------------------


def noisy_logo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 4) uint8 RGBA of any colours and opacities, extremes among them."""
    generator = np.random.default_rng(seed)
    logo = generator.integers(0, 256, (height, width, 4), np.uint8)
    kinds = generator.integers(0, 4, (height, width))
    logo[..., 3] = np.where(kinds == 0, 0, np.where(kinds == 1, 255, logo[..., 3]))
    return logo


def opaque_logo(height: int, width: int, colour: tuple[int, int, int] = (255, 0, 0)) -> np.ndarray:
    logo = np.full((height, width, 4), 255, np.uint8)
    logo[..., :3] = colour
    return logo


def tone_of(image: MedicalImage) -> Tone:
    window = (image.window.low, image.window.high)
    return tone_for(window, image.bounds, image.inverted, image.padding)


def marking_of(image: MedicalImage, mark: Mark) -> Marking:
    """The marking that puts `mark` on `image`, with no model asked."""
    tone = tone_of(image)
    nothing = Opinion((), ())
    nowhere = Lesions((), "none")
    return Marking(
        stored=blend(image.stored, mark, tone),
        decision=Decision(mark, UNCHANGED, 2, nowhere, queries=1),
        tone=tone,
        clean=nothing,
        marked=nothing,
        label=None,
    )


def sealing_for(recipient: Any, payload: str = "auto", carrier: str = "both") -> Sealing:
    return Sealing(
        owner=OWNER,
        recipients=(Recipient(str(recipient)),),
        series_parts=(b"profile", b"logo", b"seed"),
        bank_digest="b" * 64,
        payload=payload,
        carrier=carrier,
    )


# --- Models -----------------------------------------------------------------------------------

SIDE = 8


def flat_weights(seed: int, inputs: int, classes: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, (inputs, classes)).astype(np.float32)


def write_flat_model(
    folder: Path, *, layout: str, channels: int, kind: str, seed: int = 1, **manifest: str
) -> np.ndarray:
    """A model that is one matrix: flatten, multiply, perhaps softmax. Gives the matrix back."""
    from onnx import TensorProto, helper, numpy_helper

    shape = (channels, SIDE, SIDE) if layout == "NCHW" else (SIDE, SIDE, channels)
    weights = flat_weights(seed, channels * SIDE * SIDE)
    nodes = [
        helper.make_node("Flatten", ["picture"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    if kind == "probabilities":
        nodes.append(helper.make_node("Softmax", ["scores"], ["answer"], axis=1))
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["answer"]))
    graph = helper.make_graph(
        nodes,
        "flat",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    _write_model(folder, graph, _manifest(folder.name, layout, channels, kind, **manifest))
    return weights


CONVOLUTION = np.array(
    [[0.5, -0.2, 0.1], [-0.3, 0.8, 0.0], [0.2, 0.2, 0.2], [-0.1, 0.4, -0.4]], np.float32
)
"""1 x 1 kernels of the convolutional model: 4 channels out of 3."""
HEAD = np.array([[1.0, -2.0, 0.5, 0.25], [-1.0, 3.0, 0.5, -0.5]], np.float32)
"""Its 2 logits out of the 4 channels' means."""


def write_convolutional_model(folder: Path, *, bias: float = 0.0, task: str = "toy") -> None:
    """1 x 1 convolution, ReLU (`act`), mean (`means`), 2 logits (`answer`); every step by hand."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "kernels": CONVOLUTION.reshape(4, 3, 1, 1),
        "head": HEAD,
        "bias": np.array([bias, 0.0], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["picture", "kernels"], ["mixed"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["mixed"], ["act"]),
        helper.make_node("GlobalAveragePool", ["act"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"], axis=1),
        helper.make_node("Gemm", ["means", "head", "bias"], ["answer"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutional",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("means", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("act", TensorProto.FLOAT, ["n", 4, SIDE, SIDE]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    manifest = _manifest(folder.name, "NCHW", 3, "logits", task=task)
    manifest += '\n[features]\ntensor = "means"\n\n[cam]\ntensor = "act"\n'
    _write_model(folder, graph, manifest)


def _manifest(
    name: str, layout: str, channels: int, kind: str, task: str = "toy", extra: str = ""
) -> str:
    return f"""schema = 1
name = "{name}"
family = "toy"
role = "classifier"
file = "model.onnx"
sha256 = "SHA256"

[input]
tensor = "picture"
layout = "{layout}"
rows = {SIDE}
columns = {SIDE}
channels = {channels}
{extra}

[[outputs]]
task = "{task}"
tensor = "answer"
kind = "{kind}"
labels = ["no", "yes"]
"""


def _write_model(folder: Path, graph: Any, manifest: str) -> None:
    from onnx import helper

    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content = proto.SerializeToString()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    (folder / "manifest.toml").write_text(manifest.replace("SHA256", digest), encoding="utf-8")


# --- Keys --------------------------------------------------------------------------------------


def _unpadded(content: bytes) -> bytes:
    return base64.b64encode(content).rstrip(b"=")


def encrypt_to_passphrase(plaintext: bytes, passphrase: str, work_factor: int = 4) -> bytes:
    """An age file with a scrypt stanza after the specification, cheaper than age makes them."""
    file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
    wrap_key = hashlib.scrypt(
        passphrase.encode(),
        salt=b"age-encryption.org/v1/scrypt" + salt,
        n=2 ** min(work_factor, 4),
        r=8,
        p=1,
        dklen=32,
    )
    body = ChaCha20Poly1305(wrap_key).encrypt(bytes(12), file_key, None)
    arguments = b" ".join([b"scrypt", _unpadded(salt), str(work_factor).encode()])
    header = b"age-encryption.org/v1\n-> " + arguments + b"\n" + _unpadded(body) + b"\n---"
    mac_key = HKDF(hashes.SHA256(), 32, salt=None, info=b"header").derive(file_key)
    mac = hmac.digest(mac_key, header, "sha256")
    payload_key = HKDF(hashes.SHA256(), 32, salt=nonce, info=b"payload").derive(file_key)
    chunk = ChaCha20Poly1305(payload_key).encrypt(bytes(11) + b"\1", plaintext, None)
    return header + b" " + _unpadded(mac) + b"\n" + nonce + chunk
