"""What a model is: `manifest.toml`, read strictly.

A model is a folder with `model.onnx` and `manifest.toml`. The manifest says how pictures go in,
what comes out, which tensor Grad-CAM looks at, and where the weights come from.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from miad_cli.errors import ModelUnusable


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Table):
    """How a picture goes in. Values 0..1 are mapped to `range`, then `(v - mean) / std`."""

    tensor: str
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    rows: Annotated[int, Field(ge=8, le=4096)]
    columns: Annotated[int, Field(ge=8, le=4096)]
    channels: Literal[1, 3] = 3
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fit: Literal["pad", "stretch"] = "stretch"

    @model_validator(mode="after")
    def _statistics_fit_channels(self) -> InputSpec:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive")
        return self


class OutputSpec(_Table):
    """One task: the tensor (N, classes) that answers it and the names of its classes."""

    task: str
    tensor: str
    kind: Literal["logits", "probabilities"]
    labels: Annotated[tuple[str, ...], Field(min_length=2)]


class TensorSpec(_Table):
    tensor: str


class DataSpec(_Table):
    task: str
    name: str
    licence: str
    images: int


class AccuracySpec(_Table):
    """A measured figure, with the command that measured it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    task: str
    split: str
    images: int
    accuracy: float
    command: str


class MadeSpec(_Table):
    command: str
    init: str
    epochs: int
    seconds: float
    hardware: str
    seed: int


class Manifest(_Table):
    """The manifest of one model, valid once constructed."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    family: str
    role: Literal["classifier", "removal", "segmentation"]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    input: InputSpec
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1)]
    features: TensorSpec | None = None
    cam: TensorSpec | None = None
    data: tuple[DataSpec, ...] = ()
    accuracy: tuple[AccuracySpec, ...] = ()
    made: MadeSpec | None = None

    def output_for(self, task: str) -> OutputSpec | None:
        """The output that answers `task`, if the model has one."""
        return next((output for output in self.outputs if output.task == task), None)


def load_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.toml`.

    Raises:
        ModelUnusable: the file is missing or says something it may not, with every fault named.
    """
    path = folder / "manifest.toml"
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ModelUnusable(f"{folder.name}: the model has no manifest.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelUnusable(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ModelUnusable(f"{path}: {faults}") from None


def checked_model_bytes(folder: Path, manifest: Manifest) -> bytes:
    """The bytes of the ONNX file, once their SHA-256 is the manifest's.

    The bytes that were checked are the bytes that are loaded: nothing reads the file again.

    Raises:
        ModelUnusable: the file is missing or has another checksum.
    """
    path = folder / manifest.file
    try:
        content = path.read_bytes()
    except OSError:
        raise ModelUnusable(f"{manifest.name}: {path} cannot be read") from None
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ModelUnusable(
            f"{manifest.name}: {path} is not the file its manifest describes (SHA-256 differs)",
            hint="Reinstall miad, or restore the model's folder from where it came.",
        )
    return content
