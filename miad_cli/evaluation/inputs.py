"""Find what is to be evaluated: a folder with a sub-folder for each class, a CSV manifest, or a
DICOM study with a table of labels; without labels the models' own predictions on the clean
pictures are the reference.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal

from miad_cli.errors import NoUsableInput, PictureFailed, UsageError
from miad_cli.evaluation.datasets import (
    KINDS,
    NO_PICTURE_IN_IT,
    Case,
    Dataset,
    Skipped,
    Source,
    listed,
    plain_name,
    refuse_nothing,
)
from miad_cli.evaluation.tables import Faults, Row, Table, read_table
from miad_cli.files import LINK, collect_inputs, read_file
from miad_cli.imaging.dicom import NO_PICTURE, is_bare_dicom, is_dicom, read_attributes
from miad_cli.imaging.picture import read_picture
from miad_cli.imaging.raster import raster_format

Labels = Path | Literal["folders", "none"]

MANIFEST = "manifest.csv"
"""A folder that holds one is what it says."""

_HEAD = 132
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class _Found:
    """A picture before it has a number; `label` is a class name, None where it is not known."""

    source: Source
    label: str | None = None
    group: str = ""


def read_dataset(
    given: Path,
    labels: Labels | None = None,
    *,
    split: str = "",
    known: Collection[str] = (),
    name: str = "",
) -> Dataset:
    """Find the pictures to evaluate, and their classes. Pictures are only looked at; `limited`
    reads those that it takes.

    Args:
        given: a folder of pictures, a CSV manifest or a folder that holds `manifest.csv`.
        labels: a table with the columns SOPInstanceUID and label; `folders` where sub-folders are
            classes; `none` where the models' predictions are the reference. None: as it looks.
        split: take the rows of a table with this in their column `split`.
        known: class names of the models' tasks. Sub-folders that are all named like that are
            classes; others are where there are several, unless all files are DICOM: then they are
            series of a study.
        name: what to call it in a report.

    Raises:
        NoUsableInput: nothing is there, or nothing of it can be used.
        UsageError: a table cannot be meant so.
    """
    if _is_absent(given):
        raise NoUsableInput(f"{given}: no such file or folder", hint=KINDS)
    if isinstance(labels, Path):
        return _study(given, labels, split, name)
    manifest = given / MANIFEST if given.is_dir() else given
    if manifest.is_file() and manifest.suffix.lower() == ".csv" and labels != "folders":
        return _manifest(manifest, split, name, with_labels=labels != "none")
    if split:
        raise UsageError(
            f"{given}: only a manifest or a table of labels has splits",
            hint="Leave --split out, or name a CSV manifest with a column split.",
        )
    return _folder(given, labels, known, name)


def _is_absent(given: Path) -> bool:
    try:
        return not given.exists()
    except (OSError, ValueError):  # no permission, or no possible name
        return True


def _folder(given: Path, labels: Labels | None, known: Collection[str], name: str) -> Dataset:
    """Pictures in a folder, and everything below it; hidden files, and folders whose name begins
    with an underscore, are not looked at."""
    paths, skipped = _pictures_below(given)
    classes = {relative.parts[0] for relative in paths if len(relative.parts) > 1}
    at_top = any(len(relative.parts) == 1 for relative in paths)
    notes: list[str] = []
    labelled = labels == "folders"
    if labels is None and classes:
        fitting = {plain_name(one) for one in known}
        is_study = all(kind == "dicom" for kind in paths.values())
        fits = all(plain_name(one) in fitting for one in classes)
        labelled = not at_top and (fits or (len(classes) > 1 and not is_study))
        if not labelled:
            notes.append(
                "The sub-folders are not taken for classes (--labels folders takes them for that)."
            )
    if labelled and (at_top or not classes):
        raise UsageError(
            f"{given}: there are pictures outside of the folders of the classes",
            hint="Put every picture into the folder of its class.",
        )
    found = [
        _Found(
            Source(given / relative if given.is_dir() else given, str(relative)),
            relative.parts[0] if labelled else None,
            _patient(given / relative) if kind == "dicom" and given.is_dir() else "",
        )
        for relative, kind in paths.items()
    ]
    return _dataset(name or ("labelled folder" if labelled else "pictures"), found, skipped, notes)


def _manifest(path: Path, split: str, name: str, *, with_labels: bool) -> Dataset:
    table = read_table(path, ["path"])
    with_labels = with_labels and "label" in table.columns
    rows, notes = _rows_of(table, split)
    if "label" not in table.columns:
        notes.append("The manifest has no column label.")
    faults, skipped, found = Faults(path), list[Skipped](), list[_Found]()
    words: list[Row] = []
    seen: dict[str, Row] = {}
    for row in rows:
        where = f"row {row.number}: {row['path']}"
        file = _path_in(path.parent, row["path"])
        if not row["path"]:
            faults.add(row, "path", "no picture is named")
            continue
        first = seen.setdefault(os.path.normpath(file), row)
        if first is not row:
            if with_labels and first["label"] != row["label"]:
                what = f"{row['label']!r}, but row {first.number} says {first['label']!r} of it"
                faults.add(row, "label", what)
            skipped.append(Skipped(where, f"the same picture as row {first.number}", False))
            continue
        box = _box_of(row, faults, words)
        mask = _path_in(path.parent, row["mask"]) if row["mask"] else None
        if with_labels and not row["label"]:
            skipped.append(Skipped(where, "no label", failed=False))
            continue
        if absent := _absent(file) or (mask and _absent(mask, "its mask: ")):
            skipped.append(Skipped(where, absent))
            continue
        label = row["label"] if with_labels else None
        found.append(_Found(Source(file, where, box, mask), label, row["group"]))
    faults.refuse()
    if words:
        notes.append(
            f"{len(words)} cells in the column box are no boxes and are not used "
            f"(the first: row {words[0].number})."
        )
    found, unusable = _looked_at(found)
    return _dataset(name or "manifest", found, [*skipped, *unusable], notes)


def _study(given: Path, labels: Path, split: str, name: str) -> Dataset:
    """DICOM files whose labels stand in a table under their SOP Instance UIDs."""
    table = read_table(labels, ["sopinstanceuid", "label"])
    rows, notes = _rows_of(table, split)
    wanted = _by_uid(table, rows)
    elsewhere = {row["sopinstanceuid"] for row in table.rows} - wanted.keys()
    paths, skipped = _pictures_below(given)
    found: list[_Found] = []
    matched: dict[str, PurePosixPath] = {}
    for relative, kind in paths.items():
        path = given / relative if given.is_dir() else given
        if kind != "dicom":
            skipped.append(
                Skipped(str(relative), "not DICOM, so it has no SOP Instance UID", False)
            )
            continue
        try:
            uid, patient, other = _facts_of(path)
        except PictureFailed as error:
            skipped.append(Skipped(str(relative), error.message))
            continue
        row = wanted.get(uid)
        if other:
            skipped.append(Skipped(str(relative), other, False))
        elif row is None:
            if uid not in elsewhere:
                skipped.append(Skipped(str(relative), "the table has no label for it", False))
        elif uid in matched:
            skipped.append(Skipped(str(relative), f"the same instance as {matched[uid]}", False))
        elif not row["label"]:
            skipped.append(Skipped(str(relative), f"row {row.number} names no label", False))
        else:
            found.append(_Found(Source(path, str(relative)), row["label"], row["group"] or patient))
        if row is not None:
            matched.setdefault(uid, relative)
    left = [row for uid, row in wanted.items() if uid not in matched]
    if left and not matched:
        raise NoUsableInput(
            f"{labels}: none of its {len(left)} SOP Instance UIDs belongs to a file in {given}",
            hint="Name the table that belongs to this study.",
        )
    if left:
        notes.append(
            f"{len(left)} of {len(wanted)} rows of the labels belong to no file "
            f"(the first: row {left[0].number})."
        )
    return _dataset(name or "DICOM study", found, skipped, notes)


def _dataset(
    name: str, found: Sequence[_Found], skipped: Sequence[Skipped], notes: Sequence[str]
) -> Dataset:
    refuse_nothing(found, skipped)
    named = sorted({one.label for one in found if one.label is not None})
    places = {label: index for index, label in enumerate(named)}
    numbers: dict[str, str] = {}
    cases = []
    for reference, one in enumerate(found, 1):
        group = one.group or f"\0{reference}"  # on its own
        number = numbers.setdefault(group, str(len(numbers) + 1))
        label = None if one.label is None else places[one.label]
        cases.append(Case(reference, label, number, one.source))
    notes = list(notes)
    if len(named) == 1:
        notes.append("All pictures have the same class.")
    return Dataset(
        name,
        tuple(named) if named else None,
        tuple(cases),
        "given" if named else "predicted",
        tuple(skipped),
        tuple(notes),
    )


# --- Tables -----------------------------------------------------------------------------------


def _rows_of(table: Table, split: str) -> tuple[list[Row], list[str]]:
    """The rows of a split, and what should be known about the choice."""
    if "split" not in table.columns:
        if split:
            raise UsageError(
                f"{table.path}: it has no column split",
                hint="Leave --split out to take all rows.",
            )
        return list(table.rows), []
    there = Counter(row["split"] for row in table.rows)
    shown = listed([f"{one or '(empty)'} ({count})" for one, count in sorted(there.items())])
    if not split:
        note = f"All splits are taken: {shown}." if len(there) > 1 else ""
        return list(table.rows), [note] if note else []
    rows = [row for row in table.rows if row["split"].casefold() == split.casefold()]
    if not rows:
        raise UsageError(f"{table.path}: there is no split {split!r}; there are {shown}")
    chosen = {row["group"] for row in rows} - {""}
    others = {row["group"] for row in table.rows if row["split"].casefold() != split.casefold()}
    both = len(chosen & others)
    note = f"{both} of the groups in split {split} have pictures in other splits, too."
    return rows, [note] if both else []


def _by_uid(table: Table, rows: Iterable[Row]) -> dict[str, Row]:
    wanted: dict[str, Row] = {}
    faults = Faults(table.path)
    for row in rows:
        uid = row["sopinstanceuid"]
        if not uid:
            faults.add(row, "SOPInstanceUID", "it is empty")
            continue
        first = wanted.setdefault(uid, row)
        if first["label"] != row["label"]:
            what = f"{row['label']!r}, but row {first.number} says {first['label']!r} of it"
            faults.add(row, "label", what)
    faults.refuse()
    return wanted


def _path_in(folder: Path, cell: str) -> Path:
    """A path as it is written, from the table's folder; a researcher's may lead out of it."""
    path = folder / cell
    if "\\" in cell and os.sep == "/" and _absent(path):
        return folder / cell.replace("\\", "/")  # written on Windows
    return path


def _absent(path: Path, what: str = "") -> str:
    """Why a file cannot be opened, after `what`; empty where it can. Links are followed, loops of
    them end."""
    try:
        if path.is_file():
            return ""
        return what + ("not a file" if path.exists() else "no such file")
    except (OSError, ValueError) as error:
        return f"{what}cannot be read ({getattr(error, 'strerror', None) or 'no possible name'})"


def _box_of(row: Row, faults: Faults, words: list[Row]) -> tuple[float, float, float, float] | None:
    """The box of a row. One word or number is none, and goes to `words`: data sets put grades
    there. Several numbers are meant as a box and must be one."""
    parts = [part.strip(",").replace(",", ".") for part in re.split(r"[;\s]+", row["box"]) if part]
    if len(parts) == 1:
        parts = [part.strip() for part in row["box"].split(",")]
    if not parts:
        return None
    if len(parts) == 1 or not all(_NUMBER.fullmatch(part) for part in parts):
        words.append(row)
        return None
    numbers = [float(part) for part in parts]
    inside = all(0 <= one <= 1 for one in numbers)
    if len(numbers) != 4 or not inside or not numbers[2] or not numbers[3]:
        faults.add(
            row, "box", f"{row['box']!r} is no box: centre x, centre y, width, height, "
            "each as a fraction of the picture from 0 to 1",
        )  # fmt: skip
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3]


# --- Files ------------------------------------------------------------------------------------


def _pictures_below(given: Path) -> tuple[dict[PurePosixPath, str], list[Skipped]]:
    """Pictures by their path below a folder, each with its kind, and what is passed over.

    Other files are not named; those that should be pictures, links and unreadable folders are.
    """
    found: dict[PurePosixPath, str] = {}
    skipped = []
    for file in collect_inputs([given]):
        folders = file.relative.parts[:-1]
        if file.relative.name.startswith(".") or any(one[0] in "._" for one in folders):
            continue
        if file.obstacle:
            skipped.append(Skipped(str(file.relative), file.obstacle, file.obstacle != LINK))
            continue
        try:
            kind = _kind_of(file.path)
        except PictureFailed as error:
            skipped.append(Skipped(str(file.relative), error.message))
            continue
        if kind:
            found[file.relative] = kind
    return found, skipped


def _kind_of(path: Path) -> str:
    """`dicom` or `raster` by the first bytes; empty for a file that does not pretend to be one.

    Raises:
        PictureFailed: its name promises a picture that it is not, or it cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise PictureFailed(f"cannot be read ({error.strerror})") from None
    if is_dicom(head) or (not raster_format(head) and is_bare_dicom(head)):
        return "dicom"
    if raster_format(head):
        return "raster"
    read_picture(head, PurePath(path.name))  # says what is wrong with a promising name
    return ""


def _looked_at(found: Iterable[_Found]) -> tuple[list[_Found], list[Skipped]]:
    """The files of a manifest that are pictures, those of DICOM grouped by patient where the
    manifest names no group."""
    kept, skipped = [], []
    for one in found:
        path = one.source.path
        try:
            kind = _kind_of(path)
            if not kind:
                raise PictureFailed(NO_PICTURE_IN_IT)
        except PictureFailed as error:
            skipped.append(Skipped(one.source.where, error.message))
            continue
        group = one.group or (_patient(path) if kind == "dicom" else "")
        kept.append(replace(one, group=group))
    return kept, skipped


def _patient(path: Path) -> str:
    """What DICOM pictures of one patient have in common; empty where nothing can be told."""
    try:
        return _facts_of(path)[1]
    except PictureFailed:
        return ""


def _facts_of(path: Path) -> tuple[str, str, str]:
    """SOP Instance UID, patient (or study, where no patient is named), and what the object is
    where it is no picture.

    Raises:
        PictureFailed: it is not DICOM, or broken.
    """
    dataset = read_attributes(read_file(path))
    try:
        patient = str(dataset.get("PatientID") or "")
        issuer = str(dataset.get("IssuerOfPatientID") or "")
        study = str(dataset.get("StudyInstanceUID") or "")
        kind = NO_PICTURE.get(str(dataset.get("SOPClassUID") or ""), "")
        other = f"no picture but {kind}" if kind else ""
        if not kind and "PixelData" not in dataset:
            other = "no picture: it has no pixels"
        uid = str(dataset.get("SOPInstanceUID") or "")
    except Exception as error:  # a broken value makes pydicom raise anything
        raise PictureFailed(f"broken DICOM structure ({type(error).__name__})") from None
    group = f"patient {issuer}\0{patient}" if patient else study and f"study {study}"
    return uid, group, other
