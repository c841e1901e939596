"""What an evaluation found, as a report shows it: figures, tables, curves, bars and pictures.

Plain values and nothing of how they were measured. No attribute of a patient, no name of a file
and no input path belongs in here: a sample is "picture 3", with its class at most. Text comes
from users (labels, names of models and data sets); whoever shows it escapes it.

Everything is checked when it is made, and what does not fit together raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from miad_cli.evaluation.intervals import Estimate

Bytes = NDArray[np.uint8]
Float = NDArray[np.float64]
Rectangle = tuple[int, int, int, int]
"""x, y, width, height in pixels of the sample's original."""

Better = Literal["lower", "higher"]
LabelsFrom = Literal["given", "predictions"]

Figure = Estimate | float | int
"""A number, with its interval and sample size where there is one."""

_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_KEY = re.compile(r"[a-z][a-z0-9_]{0,62}")
_RESERVED = ("values",)


# --- Tables -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """Our figure and the paper's; either may be None where there is none."""

    ours: Figure | None
    paper: float | None


Cell = str | Figure | Beside | None
"""What stands in a table. None is "not measured"."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: its name in CSV files, such as `accuracy`.
        title: its name for people; the unit belongs in it.
        better: which direction is the better protection, where there is one.
        digits: decimals that people see; files hold every one.
    """

    key: str
    title: str
    better: Better | None = None
    digits: int = 2

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"{self.key!r} cannot name a column")


@dataclass(frozen=True)
class Table:
    """A table of a protocol; `identifier` names its CSV file, `meaning` is one plain sentence.

    A column in which any cell is a `Beside` is shown with the paper's figures beside it.
    """

    identifier: str
    protocol: str
    title: str
    meaning: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        _check_identifier(self.identifier)
        _check_unique(f"columns of {self.identifier}", (column.key for column in self.columns))
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.identifier}: every row needs {len(self.columns)} cells")


# --- Plots ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """A ROC curve: two arrays (K,) of shares between 0 and 1 that rise, and the area below."""

    name: str
    false_positive_rate: Float
    true_positive_rate: Float
    auc: Figure
    auc_paper: float | None = None

    def __post_init__(self) -> None:
        x, y = self.false_positive_rate, self.true_positive_rate
        if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
            raise ValueError(f"{self.name}: a curve is two arrays of the same length")
        if min(x.min(), y.min()) < 0 or max(x.max(), y.max()) > 1:
            raise ValueError(f"{self.name}: rates lie between 0 and 1")


@dataclass(frozen=True, eq=False)
class Curves:
    """ROC curves in one plot."""

    identifier: str
    protocol: str
    title: str
    meaning: str
    curves: tuple[Curve, ...]

    def __post_init__(self) -> None:
        _check_identifier(self.identifier)
        if not self.curves:
            raise ValueError(f"{self.identifier}: there is no curve")


@dataclass(frozen=True)
class Bar:
    """One bar: what it stands for, our figure, and the paper's where there is one."""

    name: str
    value: Figure | None
    paper: float | None = None


@dataclass(frozen=True)
class Bars:
    """Bars in groups, from 0 to `top`; a group has a title and its bars."""

    identifier: str
    protocol: str
    title: str
    meaning: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]
    unit: str
    top: float = 1.0
    better: Better | None = None
    digits: int = 2

    def __post_init__(self) -> None:
        _check_identifier(self.identifier)
        if not any(bars for _, bars in self.groups) or not self.top > 0:
            raise ValueError(f"{self.identifier}: there is nothing to draw")


# --- Pictures ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Removed:
    """What a removal network made of a protected picture; `note` says how well, briefly."""

    name: str
    pixels: Bytes
    note: str = ""

    def __post_init__(self) -> None:
        _check_pixels(self.name, self.pixels)


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture on its way, as it is displayed: uint8, (rows, columns) or (rows, columns, 3).

    Attributes:
        caption: "Picture 3, glioma"; never a file's name.
        original, protected, recovered: the same shape.
        heat: attention, (rows, columns) uint8, 255 the highest; None where a mask was given.
        boxes: what the logo keeps off, and `logo` is where it lies.
        delta: δ, amplified `delta_gain` times around 128; any size.
        removed: what each removal network made of `protected`; any size.
        facts: what was measured on it, as pairs of name and text.
    """

    caption: str
    original: Bytes
    protected: Bytes
    recovered: Bytes | None = None
    heat: Bytes | None = None
    boxes: tuple[Rectangle, ...] = ()
    logo: Rectangle | None = None
    delta: Bytes | None = None
    delta_gain: int = 1
    removed: tuple[Removed, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        named = {
            "original": self.original,
            "protected": self.protected,
            "recovered": self.recovered,
            "heat": self.heat,
            "delta": self.delta,
        }
        for name, pixels in named.items():
            if pixels is not None:
                _check_pixels(f"{self.caption}, {name}", pixels)
        shape = self.original.shape[:2]
        for name in ("protected", "recovered", "heat"):
            pixels = named[name]
            if pixels is not None and pixels.shape[:2] != shape:
                raise ValueError(f"{self.caption}: {name} has another size than the original")
        if self.heat is not None and self.heat.ndim != 2:
            raise ValueError(f"{self.caption}: heat is (rows, columns)")


# --- The whole --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFacts:
    """A model that took part. `part` is what it was there for, such as "searched with, tested"."""

    name: str
    family: str
    role: str
    sha256: str
    licence: str
    part: str = ""


@dataclass(frozen=True)
class DataFacts:
    """The pictures: a name for the set (no path), how many it has, how many of each class were
    used, and where the labels came from."""

    name: str
    pictures: int
    used: int
    classes: tuple[tuple[str, int], ...]
    labels_from: LabelsFrom


@dataclass(frozen=True)
class Meta:
    """How the figures came about.

    Attributes:
        created: with its time zone.
        command: the command line; inputs stand in it as `DATASET`, never as paths.
        provider: the execution provider in use, such as `CPUExecutionProvider`.
        device: its name for people.
        profile_digest: SHA-256 of the resolved profile.
        libraries: name and version.
        settings: every setting of the run, name and value.
        seconds: how long it took.
    """

    version: str
    created: datetime
    seed: int
    command: str
    data: DataFacts
    provider: str
    device: str
    profile: str
    profile_digest: str
    models: tuple[ModelFacts, ...]
    libraries: Mapping[str, str]
    settings: Mapping[str, str | int | float | bool | None]
    seconds: float

    def __post_init__(self) -> None:
        if self.created.tzinfo is None:
            raise ValueError("the date needs a time zone")


@dataclass(frozen=True)
class Headline:
    """A figure that is seen first. `as_share` shows it in per cent."""

    label: str
    value: Figure | str
    meaning: str
    paper: float | None = None
    better: Better | None = None
    as_share: bool = False
    digits: int = 2


@dataclass(frozen=True)
class Summary:
    """For whoever reads nothing else: what was found, the figures, and what they do not show."""

    sentences: tuple[str, ...]
    headlines: tuple[Headline, ...] = ()
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Findings:
    """A whole evaluation. `values` are the figures a gate may ask for, such as
    `unseen.accuracy`."""

    meta: Meta
    summary: Summary
    tables: tuple[Table, ...] = ()
    curves: tuple[Curves, ...] = ()
    bars: tuple[Bars, ...] = ()
    samples: tuple[Sample, ...] = ()
    values: Mapping[str, Figure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_unique("tables and plots", (part.identifier for part in self._parts))

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that have something to show, in the order of their first part."""
        return tuple(dict.fromkeys(part.protocol for part in self._parts))

    @property
    def _parts(self) -> tuple[Table | Curves | Bars, ...]:
        return (*self.tables, *self.curves, *self.bars)


def labels_sentence(labels_from: LabelsFrom) -> str:
    """What a reader has to know of the labels."""
    if labels_from == "given":
        return "Accuracy is measured against the labels that were given with the pictures."
    return (
        "No labels were given. What the models said of the clean pictures is taken for the truth: "
        "accuracy here is how often they keep to what they said, not how often they are right."
    )


def _check_identifier(identifier: str) -> None:
    if not _ID.fullmatch(identifier) or identifier in _RESERVED:
        raise ValueError(f"{identifier!r} cannot name a table or a plot")


def is_identifier(text: object) -> bool:
    """Whether `text` may name a table, and so a file."""
    return isinstance(text, str) and bool(_ID.fullmatch(text))


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name!r} is there twice")
        seen.add(name)


def _check_pixels(name: str, pixels: NDArray[Any]) -> None:
    grey, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (grey or colour) or 0 in pixels.shape:
        raise ValueError(f"{name}: a picture is uint8, (rows, columns) or (rows, columns, 3)")
