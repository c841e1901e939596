"""What is evaluated: pictures, with the class of each where it is known.

A case is known by a number; the names of its file and of its group go nowhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import MaskUnusable, NoUsableInput, PictureFailed, UsageError
from miad_cli.evaluation.sampling import drawn_in_turn
from miad_cli.files import read_file
from miad_cli.imaging.dicom import NoPicture
from miad_cli.imaging.image import MedicalImage
from miad_cli.imaging.masks import read_masks
from miad_cli.imaging.picture import Picture, container_in, read_picture
from miad_cli.watermark.lesions import Box, boxes_above

LabelledBy = Literal["given", "predicted"]

NO_PICTURE_IN_IT = "not a picture (PNG, JPEG, TIFF or DICOM)"

KINDS = (
    "Name a folder with a sub-folder of pictures for each class, a CSV manifest with the columns "
    "path and label, or a DICOM study."
)


@dataclass(frozen=True, eq=False)
class Annotation:
    """The lesion that is given for a picture.

    Attributes:
        pixels: (frames, rows, columns) bool, at the picture's own size; some are True.
        kind: drawn pixel by pixel, or a box.
    """

    pixels: NDArray[np.bool_]
    kind: Literal["mask", "box"]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Around the connected regions of all frames together, largest first."""
        return boxes_above(np.asarray(self.pixels.any(axis=0), np.float32), 0.5)


@dataclass(frozen=True)
class Source:
    """Where a case comes from; nothing of it goes into a figure or a report.

    `where` is what people know it by: a relative path, or a row. `box`: centre x, centre y, width
    and height as fractions of the picture.
    """

    path: Path
    where: str
    box: tuple[float, float, float, float] | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Case:
    """One picture.

    Attributes:
        reference: its place among the pictures that were found, from 1; says nothing of its name.
        label: index into the data set's labels; None where it is not known (yet).
        group: what pictures of one patient, lesion or volume share; a number as well.
    """

    reference: int
    label: int | None
    group: str
    _source: Source = field(repr=False)

    def load(self) -> MedicalImage:
        """Read the picture.

        Raises:
            PictureFailed: it cannot be read, is none, or is protected already.
        """
        return self.picture().image

    def annotation(self) -> Annotation | None:
        """The lesion, or None where none was given or nothing is marked.

        Raises:
            PictureFailed: the picture cannot be read.
            MaskUnusable: the mask cannot be used, or is not the picture's.
        """
        if self._source.mask is None and self._source.box is None:
            return None
        picture = self.picture()
        if self._source.mask is not None:
            name = PurePosixPath(self._source.path.name)
            marks = read_masks(self._source.mask).lesions_on(picture, name).pixels
            return Annotation(marks, "mask") if marks.any() else None
        assert self._source.box is not None  # noqa: S101 - one of the two is there
        image = picture.image
        marks = np.zeros((image.rows, image.columns), dtype=bool)
        marks[_pixels_of(self._source.box, image.rows, image.columns)] = True
        return Annotation(np.broadcast_to(marks, (image.frames, *marks.shape)), "box")

    def digest(self) -> str:
        """SHA-256 over the file, its label and its lesion: the same, the same figures.

        Raises:
            PictureFailed, MaskUnusable: a file cannot be read.
        """
        facts: list[object] = [hashlib.sha256(read_file(self._source.path)).hexdigest()]
        facts += [self.label, self._source.box]
        if self._source.mask is not None:
            facts.append(read_masks(self._source.mask).digest.hex())
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def picture(self) -> Picture:
        """What is in the file, read anew.

        Raises:
            PictureFailed: no picture, or a protected one.
        """
        picture = self._content()
        if isinstance(picture, NoPicture):
            raise PictureFailed(f"no picture but {picture.reason}")
        if container_in(picture) is not None:
            raise PictureFailed(
                "protected already", hint="Unlock it first: evaluation protects the originals."
            )
        return picture

    def _content(self) -> Picture | NoPicture:
        picture = read_picture(read_file(self._source.path), PurePath(self._source.path.name))
        if picture is None:
            raise PictureFailed(NO_PICTURE_IN_IT)
        return picture

    def _unusable(self) -> Skipped | None:
        """Why it cannot be used; None where it can."""
        where = self._source.where
        try:
            if isinstance(content := self._content(), NoPicture):
                return Skipped(where, f"no picture but {content.reason}", failed=False)
            self.load()
            self.annotation()
        except PictureFailed as error:
            return Skipped(where, error.message)
        except MaskUnusable as error:
            return Skipped(where, f"its lesion mask: {error.message}")
        return None


@dataclass(frozen=True)
class Skipped:
    """A file or a row that is not evaluated.

    Attributes:
        where: a relative path or a row, for the terminal; it does not go into a report.
        failed: it should have been evaluated. Objects without a picture, second copies, links
            and pictures without a label are passed over and are no failure.
    """

    where: str
    reason: str
    failed: bool = True


@dataclass(frozen=True)
class Dataset:
    """What is evaluated.

    Attributes:
        name: what kind of data it is, or the name that was given; never that of a folder.
        labels: class names, sorted, or those of the task after `for_task`; None: not known.
        labelled_by: whether the classes were given or are the models' own predictions.
        skipped: what was found and is left out.
        notes: what a reader of the figures should know, without names of files.
    """

    name: str
    labels: tuple[str, ...] | None
    cases: tuple[Case, ...]
    labelled_by: LabelledBy
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Pictures of each class, classes without any among them; empty without labels."""
        found = Counter(case.label for case in self.cases)
        return {name: found[index] for index, name in enumerate(self.labels or ())}

    def digest(self) -> str:
        """SHA-256 over the class names and all cases. With `--limit` growing it changes: a ledger
        that should go on then takes the digests of the cases into its keys."""
        facts = [list(self.labels or ()), [case.digest() for case in self.cases]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def for_task(self, task_labels: Sequence[str]) -> Dataset:
        """The same with the classes of a model's task, in its order.

        Case, and whether words are joined by blanks, hyphens or underscores, does not count. The
        data may have fewer classes than the task. Without labels there is nothing to fit yet.

        Raises:
            UsageError: the data has a class that the task has not.
        """
        own = self.labels if self.labelled_by == "given" else None
        places = {name: _place_of(name, task_labels) for name in own or ()}
        foreign = [name for name, place in places.items() if place is None]
        if foreign:
            raise UsageError(
                f"the data has classes that the task does not know: {listed(foreign)}; "
                f"the data has {listed(own or ())}, the task {listed(task_labels)}",
                hint="Name the classes as the task does, choose a profile whose task fits, or use "
                "--labels none to take the models' predictions for the reference.",
            )
        order = [places[name] for name in own or ()]
        cases = tuple(
            case if case.label is None or own is None else replace(case, label=order[case.label])
            for case in self.cases
        )
        return replace(self, labels=tuple(task_labels), cases=cases)

    def labelled(self, predictions: Mapping[int, int]) -> Dataset:
        """The same with the models' predictions on the clean pictures, by reference, as labels."""
        cases = tuple(replace(case, label=predictions[case.reference]) for case in self.cases)
        return replace(self, cases=cases, labelled_by="predicted")

    def limited(
        self,
        count: int | None,
        seed: int,
        *,
        per_class: bool = False,
        seen: Callable[[], None] = lambda: None,
    ) -> Dataset:
        """A sample of `count` pictures (None: all), in all or of each class, that can be read.

        Classes take turns, and within a class no group gives a second picture before every group
        gave one. The same on any machine; a larger sample begins with a smaller one, so what was
        measured stays of use. What cannot be read is skipped and another drawn in its place;
        `seen` is called for each picture that was looked at.

        Raises:
            UsageError: `count` is less than 1.
            NoUsableInput: none of the pictures can be read.
        """
        if count is not None and count < 1:
            raise UsageError("a sample has at least one picture", hint="Give --limit 1 or more.")
        drawn: list[Case] = []
        skipped = list(self.skipped)
        of_class: Counter[int | None] = Counter()
        for case in drawn_in_turn(self.cases, seed, of_class, count if per_class else None):
            seen()
            unusable = case._unusable()
            if unusable:
                skipped.append(unusable)
                continue
            of_class[case.label] += 1
            drawn.append(case)
            if not per_class and len(drawn) == count:
                break
        refuse_nothing(drawn, skipped)
        return replace(self, cases=tuple(drawn), skipped=tuple(skipped))


def _place_of(name: str, task_labels: Sequence[str]) -> int | None:
    """Index of the task's label that a class means; None where none, or more than one, fits."""
    if name in task_labels:
        return list(task_labels).index(name)
    fitting = [
        index for index, label in enumerate(task_labels) if plain_name(label) == plain_name(name)
    ]
    return fitting[0] if len(fitting) == 1 else None


def plain_name(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:12])
    return f"{shown}, … ({len(names)} in all)" if len(names) > 12 else shown


def _pixels_of(
    box: tuple[float, float, float, float], rows: int, columns: int
) -> tuple[slice, slice]:
    """Rows and columns that a box of fractions covers, parts of pixels included."""
    x, y, width, height = box
    spans = []
    for centre, size, length in ((y, height, rows), (x, width, columns)):
        # Rounded: 0.75 * 256 must not reach a pixel further because of its last bit.
        start = math.floor(round((centre - size / 2) * length, 6))
        end = math.ceil(round((centre + size / 2) * length, 6))
        start = min(max(start, 0), length - 1)
        spans.append(slice(start, min(max(end, start + 1), length)))
    return spans[0], spans[1]


def refuse_nothing(kept: Sequence[object], skipped: Sequence[Skipped]) -> None:
    if kept:
        return
    if not skipped:
        raise NoUsableInput("there are no pictures in it", hint=KINDS)
    reasons = Counter(one.reason for one in skipped).most_common(3)
    shown = "; ".join(f"{reason} ({count})" for reason, count in reasons)
    raise NoUsableInput(f"none of {len(skipped)} pictures can be used: {shown}", hint=KINDS)
