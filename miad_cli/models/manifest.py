"""What a model is: `manifest.toml`, read strictly.

A model is a folder with `model.onnx` and `manifest.toml`. The manifest says how pictures go in,
what comes out, which tensor Grad-CAM looks at, and where the weights come from.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from miad_cli.errors import ModelUnusable

NAME = r"^[a-z0-9][a-z0-9._-]{0,62}[a-z0-9]$|^[a-z0-9]$"
"""What a model may be called: it becomes the name of a folder on any system."""

Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Table):
    """How a picture goes in. Values 0..1 are mapped to `range`, then `(v - mean) / std`.

    `dtype` is the tensor's element type (uint8: rounded, 0..255), `batch` the number of pictures
    that the graph takes at a time where it is fixed, `colours` the order of three channels.
    """

    tensor: str
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    rows: Annotated[int, Field(ge=8, le=4096)]
    columns: Annotated[int, Field(ge=8, le=4096)]
    channels: Literal[1, 3] = 3
    colours: Literal["RGB", "BGR"] = "RGB"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    batch: Annotated[int, Field(ge=1, le=4096)] | None = None
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
        if self.range[0] >= self.range[1]:
            raise ValueError("range must go up")
        plain = self.range == (0.0, 255.0) and not any(self.mean) and set(self.std) == {1.0}
        if self.dtype == "uint8" and not plain:
            raise ValueError("a uint8 input has the range 0 to 255, the mean 0 and the std 1")
        return self


class OutputSpec(_Table):
    """One task: the tensor (N, classes) that answers it and the names of its classes.

    A tensor of one column answers for two classes: it is the score of the second.
    """

    task: str
    tensor: str
    kind: Literal["logits", "probabilities"]
    labels: Annotated[tuple[Label, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _labels_differ(self) -> OutputSpec:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        return self


class ImageSpec(_Table):
    """The picture that a removal network gives back: laid out like the input, values in `range`."""

    kind: Literal["image"]
    tensor: str
    range: tuple[float, float] = (0.0, 1.0)


class MaskSpec(_Table):
    """Which pixels are meant, laid out like the input with one channel, or one for each label.

    `values` says whether they are probabilities (0..1) or logits. A single channel with two
    labels is the score of the second.
    """

    kind: Literal["mask"]
    tensor: str
    values: Literal["probabilities", "logits"] = "probabilities"
    labels: tuple[Label, ...] = ()


AnyOutput = Annotated[OutputSpec | ImageSpec | MaskSpec, Field(discriminator="kind")]


class TensorSpec(_Table):
    tensor: str


class DataSpec(_Table):
    """What a model learned from; `images` is missing where nobody knows how many."""

    task: str
    name: str
    licence: str
    images: int | None = None


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
    """The manifest of one model, valid once constructed.

    `query_only` is why there are no gradients, and None where there are.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    name: Annotated[str, Field(pattern=NAME)]
    family: str
    role: Literal["classifier", "removal", "segmentation"]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    query_only: str | None = None
    input: InputSpec
    outputs: Annotated[tuple[AnyOutput, ...], Field(min_length=1)]
    features: TensorSpec | None = None
    cam: TensorSpec | None = None
    data: tuple[DataSpec, ...] = ()
    accuracy: tuple[AccuracySpec, ...] = ()
    made: MadeSpec | None = None

    @model_validator(mode="after")
    def _outputs_fit_the_role(self) -> Manifest:
        kinds = sorted(output.kind for output in self.outputs)
        if self.role == "classifier":
            if len(self.answers) != len(kinds):
                raise ValueError("outputs of a classifier are logits or probabilities")
            if len({one.task for one in self.answers}) != len(kinds):
                raise ValueError("outputs must answer different tasks")
        elif self.role == "removal":
            if kinds != ["image", "mask"]:
                raise ValueError("outputs of a removal network are one image and one mask")
        elif kinds != ["mask"] or len(self.mask.labels) < 2:
            raise ValueError("the output of a segmentation network is a mask with its labels")
        return self

    @property
    def answers(self) -> tuple[OutputSpec, ...]:
        """The outputs that name a class; none where the model is no classifier."""
        return tuple(one for one in self.outputs if isinstance(one, OutputSpec))

    @property
    def image(self) -> ImageSpec:
        """The picture that a removal network gives back."""
        return next(one for one in self.outputs if isinstance(one, ImageSpec))

    @property
    def mask(self) -> MaskSpec:
        """The mask of a removal or segmentation network."""
        return next(one for one in self.outputs if isinstance(one, MaskSpec))

    @property
    def looks(self) -> bool:
        """True where Grad-CAM can look through it."""
        return self.cam is not None and self.query_only is None

    def output_for(self, task: str) -> OutputSpec | None:
        """The output that answers `task`, if the model has one."""
        return next((output for output in self.answers if output.task == task), None)


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
    except OSError as error:
        raise ModelUnusable(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelUnusable(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise ModelUnusable(f"{path}: {faults_of(error)}") from None


def faults_of(error: ValidationError) -> str:
    """Every fault with the path of the setting it is in, in one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'manifest'}: {fault['msg']}"
        for fault in error.errors()
    )


def manifest_text(manifest: Manifest) -> str:
    """The manifest as TOML, which `load_manifest` reads back to the same manifest."""
    facts = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    return "\n".join(_lines(facts, "")).lstrip("\n") + "\n"


def _lines(table: dict[str, Any], path: str) -> Iterator[str]:
    later = {name: value for name, value in table.items() if _is_table(value)}
    for name, value in table.items():
        if name not in later and value != []:
            yield f"{name} = {_value(value)}"
    for name, value in later.items():
        inner = f"{path}{name}"
        for one in value if isinstance(value, list) else [value]:
            yield from ("", f"[[{inner}]]" if isinstance(value, list) else f"[{inner}]")
            yield from _lines(one, f"{inner}.")


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    text = json.dumps(value, ensure_ascii=False)  # numbers and strings are written as in JSON
    return text.replace("\x7f", "\\u007f")


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
            hint="Reinstall miad; a model of your own: add it again, with --replace.",
        )
    return content
