"""What `evaluate` reads: folders, manifests and studies; who labels them; faults; samples."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import build_dicom, build_png, ramp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from miad_cli.errors import MaskUnusable, NoUsableInput, PictureFailed, UsageError
from miad_cli.evaluation.datasets import Case, Dataset, Source
from miad_cli.evaluation.inputs import read_dataset
from miad_cli.evaluation.sampling import drawn_in_turn
from miad_cli.imaging.raster import embed_in_png
from miad_cli.watermark.lesions import Box

TASK = ("glioma", "meningioma", "no_tumor", "pituitary")


def png(value: int = 7, rows: int = 10, columns: int = 20) -> bytes:
    return build_png(np.full((rows, columns, 1), value, np.uint8))


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def encoded(kind: str) -> bytes:
    target = io.BytesIO()
    Image.new("L", (20, 10), 7).save(target, kind)
    return target.getvalue()


def dicom(uid: str, patient: str = "", **attributes: str) -> bytes:
    return build_dicom(ramp(10, 20), SOPInstanceUID=uid, PatientID=patient, **attributes)


def manifest(folder: Path, text: str, **pictures: int) -> Path:
    """A manifest and the pictures it names, grey of the given value."""
    for name, value in pictures.items():
        put(folder / f"{name}.png", png(value))
    return put(folder / "manifest.csv", text.encode())


def classes_of(dataset: Dataset) -> list[str]:
    assert dataset.labels is not None
    return [dataset.labels[case.label] for case in dataset.cases if case.label is not None]


def greys_of(dataset: Dataset) -> list[int]:
    """The pictures, told apart by their grey."""
    return [int(case.load().stored.flat[0]) for case in dataset.cases]


def reasons(dataset: Dataset) -> dict[str, str]:
    return {one.where: one.reason for one in dataset.skipped}


def refused(path: Path, *arguments: object, **settings: object) -> UsageError:
    with pytest.raises(UsageError) as error:
        read_dataset(path, *arguments, **settings)  # type: ignore[arg-type]
    return error.value


# --- Folders ----------------------------------------------------------------------------------


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    put(tmp_path / "pituitary" / "a.png", png(1))
    put(tmp_path / "glioma" / "deep" / "b.png", png(2))
    put(tmp_path / "glioma" / "c.jpg", encoded("JPEG"))
    put(tmp_path / "glioma" / "d.tif", encoded("TIFF"))
    put(tmp_path / "meningioma" / "e.dcm", dicom("1.2.1"))
    put(tmp_path / "README.md", b"text")
    put(tmp_path / "_masks" / "a.png", png(9))
    put(tmp_path / "glioma" / ".hidden.png", png(9))
    dataset = read_dataset(tmp_path)
    assert dataset.labels == ("glioma", "meningioma", "pituitary")
    assert dataset.labelled_by == "given"
    assert classes_of(dataset) == ["glioma"] * 3 + ["meningioma", "pituitary"]
    assert [case.reference for case in dataset.cases] == [1, 2, 3, 4, 5]
    assert dataset.counts == {"glioma": 3, "meningioma": 1, "pituitary": 1}
    assert not dataset.skipped
    assert [case.load().stored.shape for case in dataset.cases] == [(1, 10, 20, 1)] * 5


def test_names_of_files_and_folders_stay_inside(tmp_path: Path) -> None:
    folder = tmp_path / "DOE^JOHN"
    for name in ("glioma", "pituitary"):
        put(folder / name / "secret.dcm", dicom(f"1.2.{len(name)}", "DOE-17"))
    dataset = read_dataset(folder)
    text = f"{dataset!r} {dataset.name} {dataset.notes} {dataset.cases[0]} {dataset.cases[0].group}"
    assert not re.search("DOE|secret|17", text)


def test_pictures_of_one_patient_are_one_group(tmp_path: Path) -> None:
    for name, uid, patient in (("a", "1.1", "P1"), ("b", "1.2", "P2"), ("c", "1.3", "P1")):
        put(tmp_path / f"{name}.dcm", dicom(uid, patient))
    put(tmp_path / "d.png", png())
    put(tmp_path / "e.png", png())
    groups = [case.group for case in read_dataset(tmp_path).cases]
    assert groups[0] == groups[2] and len(set(groups)) == 4


def test_pictures_without_classes_are_labelled_by_the_models(tmp_path: Path) -> None:
    put(tmp_path / "a.png", png(1))
    put(tmp_path / "b.png", png(2))
    dataset = read_dataset(tmp_path)
    assert dataset.labels is None and dataset.labelled_by == "predicted"
    assert [case.label for case in dataset.cases] == [None, None]
    labelled = dataset.for_task(TASK).labelled({1: 3, 2: 0})
    assert labelled.labelled_by == "predicted"
    assert classes_of(labelled) == ["pituitary", "glioma"]
    assert read_dataset(tmp_path / "a.png").cases[0].load().stored[0, 0, 0, 0] == 1


def test_sub_folders_of_a_study_are_series(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        put(tmp_path / name / "1.dcm", dicom(f"1.{name[1]}"))
    dataset = read_dataset(tmp_path, known=TASK)
    assert dataset.labels is None
    assert "--labels folders" in dataset.notes[0]
    assert read_dataset(tmp_path, "folders").labels == ("t1", "t2")
    assert read_dataset(tmp_path, known=("T1", "T2")).labels == ("t1", "t2")


def test_one_folder_is_a_class_where_a_task_knows_it(tmp_path: Path) -> None:
    put(tmp_path / "Glioma" / "a.png", png())
    assert read_dataset(tmp_path).labelled_by == "predicted"
    dataset = read_dataset(tmp_path, known=TASK)
    assert dataset.labels == ("Glioma",)
    assert "same class" in dataset.notes[0]


def test_labels_none_takes_no_folder_for_a_class(tmp_path: Path) -> None:
    for name in ("glioma", "pituitary"):
        put(tmp_path / name / "a.png", png())
    assert read_dataset(tmp_path, "none", known=TASK).labels is None


def test_a_picture_outside_of_the_classes_is_not_overlooked(tmp_path: Path) -> None:
    for name in ("glioma/a.png", "pituitary/b.png", "c.png"):
        put(tmp_path / name, png())
    assert read_dataset(tmp_path, known=TASK).notes
    assert "outside" in refused(tmp_path, "folders").message


def test_what_is_no_picture_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    put(tmp_path / "glioma" / "good.png", png(5))
    put(tmp_path / "glioma" / "torn.png", png()[:40])
    put(tmp_path / "glioma" / "lie.png", b"text")
    put(tmp_path / "glioma" / "empty.dcm", b"")
    put(tmp_path / "pituitary" / "done.png", embed_in_png(png(), b"sealed"))
    put(tmp_path / "pituitary" / "good.png", png(6))
    dataset = read_dataset(tmp_path).limited(None, 1)
    assert sorted(greys_of(dataset)) == [5, 6]
    assert all(one.failed for one in dataset.skipped)
    found = reasons(dataset)
    assert found.keys() == {
        "glioma/torn.png", "glioma/lie.png", "glioma/empty.dcm", "pituitary/done.png"
    }  # fmt: skip
    assert found["glioma/lie.png"] == "not a PNG picture, whatever its name says"
    assert found["pituitary/done.png"] == "protected already"


def test_an_object_without_a_picture_is_no_failure(tmp_path: Path) -> None:
    put(tmp_path / "seg.dcm", dicom("1.1", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"))
    put(tmp_path / "good.dcm", dicom("1.2"))
    (skipped,) = read_dataset(tmp_path).limited(None, 1).skipped
    assert skipped.reason == "no picture but a segmentation" and not skipped.failed


def test_nothing_usable_is_refused_with_its_reasons(tmp_path: Path) -> None:
    put(tmp_path / "torn.png", png()[:40])
    dataset = read_dataset(tmp_path)
    with pytest.raises(NoUsableInput, match=r"none of 1 pictures .* decoded"):
        dataset.limited(None, 1)
    put(tmp_path / "text" / "a.txt", b"")
    with pytest.raises(NoUsableInput, match="no pictures"):
        read_dataset(tmp_path / "text")
    with pytest.raises(NoUsableInput, match="no such file"):
        read_dataset(tmp_path / "missing")
    with pytest.raises(NoUsableInput, match="no such file"):
        read_dataset(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.name != "posix", reason="needs links and named pipes")
def test_links_and_pipes_end(tmp_path: Path) -> None:
    put(tmp_path / "a" / "good.png", png(1))
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    dataset = read_dataset(tmp_path)
    assert greys_of(dataset) == [1]
    assert not any(one.failed for one in dataset.skipped) and len(dataset.skipped) == 2
    text = "path\na/good.png\na/self.png\na/pipe.png\na/round/a\na/round/a/good.png\n"
    manifest(tmp_path, text)
    dataset = read_dataset(tmp_path)
    assert len(dataset.cases) == 2  # what a link leads to is another path
    assert set(reasons(dataset).values()) == {"no such file", "not a file"}


# --- Manifests --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_manifest_as_programs_write_it(
    tmp_path: Path, start: str, end: str, delimiter: str
) -> None:
    rows = [["Label ", "PATH", "note"], ["glioma", "ä b.png", '"x, y; z"'], ["no tumor", "c.png"]]
    text = start + end.join([*(delimiter.join(row) for row in rows), "", ""])
    path = manifest(tmp_path, text)
    put(tmp_path / "ä b.png", png(1))
    put(tmp_path / "c.png", png(2))
    for named in (tmp_path, path):
        dataset = read_dataset(named)
        assert classes_of(dataset) == ["glioma", "no tumor"]
        assert greys_of(dataset) == [1, 2]


def test_paths_may_lead_out_and_come_from_windows(tmp_path: Path) -> None:
    put(tmp_path / "else" / "a.png", png(1))
    put(tmp_path / "here" / "in" / "b.png", png(2))
    absolute = put(tmp_path / "c.png", png(3))
    manifest(tmp_path / "here", f"path\n../else/a.png\nin\\b.png\n{absolute}\n")
    assert greys_of(read_dataset(tmp_path / "here")) == [1, 2, 3]


def test_a_split_and_what_should_be_known_of_it(tmp_path: Path) -> None:
    text = "path,label,split,group\na.png,x,train,g\nb.png,x,Test,g\nc.png,y,test,h\nd.png,y,,i\n"
    path = manifest(tmp_path, text, a=1, b=2, c=3, d=4)
    dataset = read_dataset(tmp_path, split="test")
    assert greys_of(dataset) == [2, 3]
    assert dataset.notes == ("1 of the groups in split test have pictures in other splits, too.",)
    whole = read_dataset(tmp_path)
    assert len(whole.cases) == 4 and "train (1)" in whole.notes[0]
    groups = [case.group for case in whole.cases]
    assert groups[0] == groups[1] and len(set(groups)) == 3
    error = refused(path, split="tset")
    assert "'tset'" in error.message and "train (1)" in error.message


def test_a_split_needs_a_column(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path\na.png\n", a=1)
    assert "no column split" in refused(path, split="test").message
    assert "splits" in refused(tmp_path / "a.png", split="test").message


def test_a_manifest_without_labels(tmp_path: Path) -> None:
    manifest(tmp_path, "path\na.png\n", a=1)
    dataset = read_dataset(tmp_path)
    assert dataset.labelled_by == "predicted"
    assert dataset.notes == ("The manifest has no column label.",)
    manifest(tmp_path, "path,label\na.png,glioma\n")
    assert read_dataset(tmp_path, "none").labelled_by == "predicted"


def test_rows_that_cannot_serve_are_listed(tmp_path: Path) -> None:
    put(tmp_path / "text.csv.md", b"text")
    text = (
        "path,label,mask\n"
        "a.png,x,\n"
        "gone.png,x,\n"
        "./a.png,x,\n"
        "b.png,,\n"
        "\n"
        "b.png\n"
        "c.png,x,gone.png\n"
        "text.csv.md,y,\n"
    )
    manifest(tmp_path, text, a=1, b=2, c=3)
    dataset = read_dataset(tmp_path)
    assert greys_of(dataset) == [1]
    assert {(one.where, one.reason, one.failed) for one in dataset.skipped} == {
        ("row 3: gone.png", "no such file", True),
        ("row 4: ./a.png", "the same picture as row 2", False),
        ("row 5: b.png", "no label", False),
        ("row 7: b.png", "the same picture as row 5", False),
        ("row 8: c.png", "its mask: no such file", True),
        ("row 9: text.csv.md", "not a picture (PNG, JPEG, TIFF or DICOM)", True),
    }


def test_faults_of_a_manifest_are_all_said_at_once(tmp_path: Path) -> None:
    text = (
        "path,label,box\n"
        "a.png,x,0.5 0.5 0.1\n"
        ",x,\n"
        "a.png,y,\n"
        "b.png,x,0.5 0.5 0.2 20\n"
        "c.png,x,0.5 0.5 0 0.1\n"
        "d.png,x,1 2\n"
        "e.png,x,0.5 0.5 0.1 -0.1\n"
    )
    path = manifest(tmp_path, text, a=1, b=2)
    message = refused(path).message
    assert message.startswith(f"{path}: ")
    for said in (
        "row 2, column box: '0.5 0.5 0.1' is no box",
        "row 3, column path: no picture is named",
        "row 4, column label: 'y', but row 2 says 'x' of it",
        "row 5, column box: '0.5 0.5 0.2 20'",
        "row 6, column box",
        "and 2 more",
    ):
        assert said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"file,label\na,b\n", "there is no column path; its columns are file, label"),
        (b"path,label,Label\na,b,c\n", "several columns are named label"),
        (b"path,label\na.png,x,0.1,0.2\n", "row 2: 4 cells under 2 columns"),
        (b"path,label\na.png,x\nb.png,\xe4\n", "row 3 is not UTF-8"),
        ("path,label\na,b\n".encode("utf-16"), "not UTF-8"),
        (b"path\n\0\n", "zero bytes"),
        (b'path\n"a.png\n', "not a CSV table"),
        (b'path,label\n"a"b,x\n', "not a CSV table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    error = refused(put(tmp_path / "manifest.csv", content))
    assert said in error.message


@pytest.mark.parametrize("content", [b"", b"\n", b"path,label\n", b"path,label\n\n , \n"])
def test_an_empty_table_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(NoUsableInput, match=r"empty|no rows"):
        read_dataset(put(tmp_path / "manifest.csv", content))


# --- Lesions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    ["0.5 0.5 0.2 0.4", '"0.5,0.5,0.2,0.4"', '"0.5, 0.5, 0.2, 0.4"', '"0,5 0,5 0,2 0,4"',
     "0.5;0.5;.2;4e-1"],
)  # fmt: skip
def test_a_box_marks_what_it_covers(tmp_path: Path, cell: str) -> None:
    manifest(tmp_path, f"path,label,box\na.png,x,{cell}\n", a=1)  # 10 rows, 20 columns
    (case,) = read_dataset(tmp_path).limited(None, 1).cases
    annotation = case.annotation()
    assert annotation is not None and annotation.kind == "box"
    wanted = np.zeros((1, 10, 20), bool)
    wanted[:, 3:7, 8:12] = True
    assert np.array_equal(annotation.pixels, wanted)
    assert annotation.boxes == (Box(8, 3, 4, 4),)


def test_a_box_at_the_edge_stays_inside_and_marks_something(tmp_path: Path) -> None:
    text = "path,box\na.png,1 1 0.001 0.5\nb.png,0.76 0.5 0.01 0.01\n"
    manifest(tmp_path, text, a=1, b=2)
    corner, parts = (case.annotation() for case in read_dataset(tmp_path).cases)
    assert corner is not None and corner.boxes == (Box(19, 7, 1, 3),)
    assert parts is not None and parts.boxes == (Box(15, 4, 1, 2),)


def test_words_in_the_column_of_boxes_are_none(tmp_path: Path) -> None:
    text = "path,box\na.png,grade1\nb.png,3\nc.png,left upper lobe here\nd.png,\n"
    manifest(tmp_path, text, a=1, b=2, c=3, d=4)
    dataset = read_dataset(tmp_path)
    assert all(case.annotation() is None for case in dataset.cases)
    assert dataset.notes[-1].startswith("3 cells in the column box are no boxes")


def test_masks_are_the_pictures_own(tmp_path: Path) -> None:
    marks = np.zeros((20, 40, 1), np.uint8)  # twice the size
    marks[4:8, 10:20] = 255
    put(tmp_path / "m" / "any_name.png", build_png(marks))
    put(tmp_path / "m" / "black.png", build_png(marks * 0))
    put(tmp_path / "m" / "square.png", png(255, 10, 10))
    text = "path,mask,box\na.png,m/any_name.png,0.5 0.5 1 1\nb.png,m/black.png,\nc.png,,\n"
    manifest(tmp_path, text + "d.png,m/square.png,\n", a=1, b=2, c=3, d=4)
    drawn, black, none, square = read_dataset(tmp_path).cases
    annotation = drawn.annotation()
    assert annotation is not None and annotation.kind == "mask"
    assert annotation.boxes == (Box(5, 2, 5, 2),)
    assert black.annotation() is None and none.annotation() is None
    with pytest.raises(MaskUnusable):
        square.annotation()
    limited = read_dataset(tmp_path).limited(None, 1)
    assert sorted(greys_of(limited)) == [1, 2, 3]
    assert "10 rows x 10 columns" in limited.skipped[0].reason


# --- Studies ----------------------------------------------------------------------------------


def study(folder: Path, text: str) -> Path:
    for number in (1, 2, 3):
        put(folder / "study" / f"{number}.dcm", dicom(f"1.2.{number}", "P1"))
    return put(folder / "labels.csv", text.encode())


def test_a_study_is_labelled_by_its_instances(tmp_path: Path) -> None:
    text = "SOPInstanceUID;Label\n1.2.3;glioma\n1.2.1;no_tumor\n1.2.9;glioma\n"
    labels = study(tmp_path, text)
    put(tmp_path / "study" / "copy.dcm", dicom("1.2.3"))
    put(tmp_path / "study" / "scan.png", png())
    dataset = read_dataset(tmp_path / "study", labels)
    assert classes_of(dataset) == ["no_tumor", "glioma"]
    assert dataset.labelled_by == "given"
    assert {case.group for case in dataset.cases} == {"1"}
    assert dataset.notes == ("1 of 3 rows of the labels belong to no file (the first: row 4).",)
    found = reasons(dataset)
    assert found == {
        "2.dcm": "the table has no label for it",
        "copy.dcm": "the same instance as 3.dcm",
        "scan.png": "not DICOM, so it has no SOP Instance UID",
    }
    assert not any(one.failed for one in dataset.skipped)


def test_a_split_of_a_study_leaves_the_others_out(tmp_path: Path) -> None:
    text = "SOPInstanceUID,label,split\n1.2.3,a,test\n1.2.1,b,train\n1.2.2,b,test\n"
    dataset = read_dataset(tmp_path / "study", study(tmp_path, text), split="test")
    assert classes_of(dataset) == ["b", "a"]
    assert not dataset.skipped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uid,label\n1.2.3,a\n", "no column sopinstanceuid"),
        ("SOPInstanceUID,label\n1.2.3,a\n1.2.3,b\n", "row 3, column label: 'b', but row 2"),
        ("SOPInstanceUID,label\n,a\n", "row 2, column SOPInstanceUID"),
    ],
)
def test_faults_of_labels_are_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path / "study", study(tmp_path, text)).message


def test_labels_of_another_study_are_refused(tmp_path: Path) -> None:
    labels = study(tmp_path, "SOPInstanceUID,label\n9.9.9,a\n")
    with pytest.raises(NoUsableInput, match="none of its 1 SOP Instance UIDs"):
        read_dataset(tmp_path / "study", labels)


# --- Classes ----------------------------------------------------------------------------------


def labelled(*names: str) -> Dataset:
    own = tuple(sorted(set(names)))
    cases = [
        Case(number, own.index(name), str(number), Source(Path("x"), "x"))
        for number, name in enumerate(names, 1)
    ]
    return Dataset("test", own, tuple(cases), "given")


def test_classes_are_put_in_the_order_of_the_task() -> None:
    dataset = labelled("Pituitary", "no tumor", "GLIOMA").for_task(TASK)
    assert dataset.labels == TASK
    assert [case.label for case in dataset.cases] == [3, 2, 0]
    assert dataset.counts == {"glioma": 1, "meningioma": 0, "no_tumor": 1, "pituitary": 1}


def test_foreign_classes_are_refused_with_both_sides() -> None:
    with pytest.raises(UsageError) as error:
        labelled("glioma", "astrocytoma").for_task(TASK)
    said = error.value.message
    assert "does not know: astrocytoma;" in said
    assert "the data has astrocytoma, glioma" in said and "the task glioma, meningioma" in said


def test_labels_that_only_differ_in_form_are_told_apart() -> None:
    twins = ("type-1", "type_1", "other")
    assert [case.label for case in labelled("type_1", "type-1").for_task(twins).cases] == [1, 0]
    with pytest.raises(UsageError, match="does not know: type 1"):
        labelled("type 1").for_task(twins)


# --- Samples ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    reference: int
    label: int | None
    group: str


POPULATIONS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, None]), st.sampled_from("abcd")), max_size=30
).map(lambda kinds: [Drawn(number, *kind) for number, kind in enumerate(kinds)])


def sampled(
    population: Sequence[Drawn], seed: int, count: int | None, most: int | None
) -> list[Drawn]:
    taken: Counter[int | None] = Counter()
    sample = []
    for one in drawn_in_turn(population, seed, taken, most):
        if count is not None and len(sample) == count:
            break
        taken[one.label] += 1
        sample.append(one)
    return sample


@settings(max_examples=40, deadline=None)
@given(POPULATIONS, st.integers(0, 99), st.integers(0, 30))
def test_a_sample_is_balanced_and_fair_to_groups(
    population: list[Drawn], seed: int, count: int
) -> None:
    sample = sampled(population, seed, count, None)
    assert len(sample) == min(count, len(population)) == len(set(sample))
    there, taken = Counter(one.label for one in population), Counter(one.label for one in sample)
    most = max(taken.values(), default=0)
    assert all(taken[label] >= min(there[label], most - 1) for label in there)
    groups = Counter((one.label, one.group) for one in population)
    used = Counter((one.label, one.group) for one in sample)
    for label in there:
        least = [
            used[label, group] for group in "abcd" if groups[label, group] > used[label, group]
        ]
        most = max((used[label, group] for group in "abcd"), default=0)
        assert not least or most <= min(least) + 1


@settings(max_examples=40, deadline=None)
@given(POPULATIONS, st.integers(0, 99), st.integers(0, 15), st.booleans(), st.randoms())
def test_a_larger_sample_begins_with_the_smaller(
    population: list[Drawn], seed: int, count: int, per_class: bool, random: object
) -> None:
    def draw(size: int, cases: list[Drawn]) -> list[Drawn]:
        return sampled(cases, seed, None if per_class else size, size if per_class else None)

    small = draw(count, population)
    shuffled = list(population)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert draw(count, shuffled) == small
    large = draw(count + 3, population)
    assert [one for one in large if one in small] == small
    if not per_class:
        assert large[: len(small)] == small


def test_a_class_without_enough_leaves_its_share_to_the_others() -> None:
    population = [Drawn(n, int(n > 2), str(n)) for n in range(20)]
    assert Counter(one.label for one in sampled(population, 1, 12, None)) == {0: 3, 1: 9}
    assert Counter(one.label for one in sampled(population, 1, None, 5)) == {0: 3, 1: 5}


def test_a_group_that_another_class_took_comes_last() -> None:
    """Pictures of one patient in two classes: as many patients as there are come in."""
    population = [Drawn(n, n % 2, "ab"[n // 2]) for n in range(4)]
    for seed in range(20):
        assert {one.group for one in sampled(population, seed, 2, None)} == {"a", "b"}


def test_a_group_that_another_class_took_often_still_has_its_turn() -> None:
    """Class 0 has group a alone; class 1 must not take b again before it took a once."""
    kinds = [(0, "a")] * 4 + [(1, "a")] + [(1, "b")] * 3
    population = [Drawn(number, *kind) for number, kind in enumerate(kinds)]
    sample = sampled(population, 1, 4, None)
    assert sorted((one.label, one.group) for one in sample) == [
        (0, "a"), (0, "a"), (1, "a"), (1, "b")
    ]  # fmt: skip


def test_seeds_differ_and_stay() -> None:
    """The very pictures: a report that was made today can be made again."""
    population = [Drawn(number, None, str(number)) for number in range(1, 101)]
    first, other = (
        [one.reference for one in sampled(population, seed, 5, None)] for seed in (2023, 1)
    )
    assert first == [87, 60, 43, 92, 85]
    assert other != first


def test_an_unreadable_picture_is_replaced(tmp_path: Path) -> None:
    for number in range(1, 9):
        content = png(number) if number % 2 else png(number)[:40]
        put(tmp_path / "ab"[number > 4] / f"{number}.png", content)
    looked: list[None] = []
    dataset = read_dataset(tmp_path)
    sample = dataset.limited(4, 7, seen=lambda: looked.append(None))
    assert sorted(greys_of(sample)) == [1, 3, 5, 7]
    assert sample.counts == {"a": 2, "b": 2}
    assert len(looked) == 4 + len(sample.skipped)
    assert dataset.limited(1, 7, per_class=True).counts == {"a": 1, "b": 1}
    with pytest.raises(UsageError):
        dataset.limited(0, 7)


def test_a_digest_follows_pictures_labels_and_lesions(tmp_path: Path) -> None:
    def digest(text: str, grey: int = 1) -> str:
        manifest(tmp_path, text, a=grey, b=2)
        return read_dataset(tmp_path).digest()

    text = "path,label,box\na.png,x,0.5 0.5 0.1 0.1\nb.png,y,\n"
    base = digest(text)
    assert digest(text) == base
    others = [
        digest(text, grey=9),
        digest(text.replace("x,0.5", "z,0.5")),
        digest(text.replace("0.1 0.1", "0.1 0.2")),
        digest(text.replace("b.png,y,\n", "")),
    ]
    assert len({base, *others}) == 5


def test_the_digest_of_a_case_follows_its_label_and_not_its_number(tmp_path: Path) -> None:
    put(tmp_path / "a.png", png())
    (case,) = read_dataset(tmp_path).cases
    assert replace(case, label=1).digest() != case.digest()
    assert replace(case, reference=2, group="2").digest() == case.digest()


def test_a_mask_counts_in_the_digest(tmp_path: Path) -> None:
    manifest(tmp_path, "path,mask\na.png,m.png\n", a=1)
    digests = []
    for value in (0, 255):
        put(tmp_path / "m.png", png(value))
        digests.append(read_dataset(tmp_path).cases[0].digest())
    assert digests[0] != digests[1]


def test_a_picture_that_goes_away_is_said(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", png())
    (case,) = read_dataset(tmp_path).cases
    path.unlink()
    with pytest.raises(PictureFailed, match="cannot be read"):
        case.load()
