"""Files: what is collected, where it goes, and that nothing half done stays."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

import pytest

from miad_cli.errors import NoUsableInput, OutputExists, PictureFailed, UsageError
from miad_cli.files import (
    LINK,
    PART_PREFIX,
    InputFile,
    check_output,
    collect_inputs,
    default_output,
    plan_outputs,
    read_file,
    write_files,
    write_report,
)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(inputs: list[Path]) -> list[str]:
    return [str(one.relative) for one in collect_inputs(inputs)]


def nothing(parts: dict[str, Path]) -> None:
    pass


# --- What goes in -----------------------------------------------------------------------------


def test_files_below_a_folder_come_in_order_with_their_place(tmp_path: Path) -> None:
    touch(tmp_path / "s" / "b" / "2.dcm", tmp_path / "s" / "a.dcm", tmp_path / "s" / "b" / "1.dcm")
    assert names([tmp_path / "s"]) == ["a.dcm", "b/1.dcm", "b/2.dcm"]


def test_several_folders_keep_their_names(tmp_path: Path) -> None:
    touch(tmp_path / "s" / "1.dcm", tmp_path / "t" / "1.dcm")
    assert names([tmp_path / "s", tmp_path / "t"]) == ["s/1.dcm", "t/1.dcm"]


def test_two_inputs_for_one_place_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "s" / "1.dcm", tmp_path / "t" / "1.dcm")
    with pytest.raises(UsageError, match=r"same place: 1\.dcm"):
        collect_inputs([tmp_path / "s" / "1.dcm", tmp_path / "t" / "1.dcm"])


def test_links_below_a_folder_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "s" / "1.dcm", tmp_path / "secret" / "2.dcm")
    (tmp_path / "s" / "folder").symlink_to(tmp_path / "secret")
    (tmp_path / "s" / "2.dcm").symlink_to(tmp_path / "secret" / "2.dcm")
    found = {str(one.relative): one.obstacle for one in collect_inputs([tmp_path / "s"])}
    assert found == {"1.dcm": "", "2.dcm": LINK, "folder": LINK}


def test_link_that_is_named_is_meant(tmp_path: Path) -> None:
    touch(tmp_path / "1.dcm")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "1.dcm")
    assert names([tmp_path / "link.dcm"]) == ["link.dcm"]


def test_files_that_were_being_written_are_not_read(tmp_path: Path) -> None:
    touch(tmp_path / "s" / "1.dcm", tmp_path / "s" / f"{PART_PREFIX}0123")
    assert names([tmp_path / "s"]) == ["1.dcm"]


def test_missing_input_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoUsableInput, match="no such file"):
        collect_inputs([tmp_path / "none"])


def test_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoUsableInput, match="empty"):
        collect_inputs([tmp_path])


def test_file_that_cannot_be_read_is_one_failed_picture(tmp_path: Path) -> None:
    with pytest.raises(PictureFailed, match="cannot be read"):
        read_file(tmp_path)


# --- Where it goes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "suffix", "expected"),
    [
        ("study", "protected", "study-protected"),
        ("study-protected", "unlocked", "study-unlocked"),
        ("study", "unlocked", "study-unlocked"),
    ],
)
def test_output_is_named_after_the_input(
    tmp_path: Path, given: str, suffix: str, expected: str
) -> None:
    (tmp_path / given).mkdir()
    assert default_output([tmp_path / given], suffix) == tmp_path / expected


def test_output_of_a_file_is_a_folder_of_its_name(tmp_path: Path) -> None:
    touch(tmp_path / "scan.dcm")
    assert default_output([tmp_path / "scan.dcm"], "protected") == tmp_path / "scan-protected"


def test_output_of_the_working_folder_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    expected = tmp_path.resolve() / "study-protected"
    assert default_output([Path(".")], "protected").resolve() == expected


def test_several_inputs_need_an_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="need an output folder"):
        default_output([tmp_path / "a", tmp_path / "b"], "protected")


@pytest.mark.parametrize("output", ["study", "study/out", ".", "study/../study/x"])
def test_output_and_input_inside_each_other_are_refused(tmp_path: Path, output: str) -> None:
    touch(tmp_path / "study" / "1.dcm")
    with pytest.raises(UsageError, match="inside each other"):
        check_output([tmp_path / "study"], tmp_path / output, may_exist=True)


def test_output_inside_the_input_is_seen_through_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "study" / "1.dcm")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "study")
    with pytest.raises(UsageError, match="inside each other"):
        check_output([tmp_path / "study"], tmp_path / "elsewhere" / "out", may_exist=True)


def test_output_beside_a_single_file_is_allowed(tmp_path: Path) -> None:
    touch(tmp_path / "1.dcm")
    check_output([tmp_path / "1.dcm"], tmp_path / "out", may_exist=False)


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "study" / "1.dcm", tmp_path / "out")
    with pytest.raises(UsageError, match="must be a folder"):
        check_output([tmp_path / "study"], tmp_path / "out", may_exist=True)


def test_output_with_files_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    touch(tmp_path / "study" / "1.dcm", tmp_path / "out" / "1.dcm")
    with pytest.raises(OutputExists, match="files in it"):
        check_output([tmp_path / "study"], tmp_path / "out", may_exist=False)
    check_output([tmp_path / "study"], tmp_path / "out", may_exist=True)


def planned(*sources: str) -> dict[str, str]:
    files = [InputFile(Path(source), PurePosixPath(source)) for source in sources]
    return {str(source): str(target) for source, target in plan_outputs(files).items()}


def test_converted_pictures_become_png() -> None:
    assert planned("a.jpg", "b/c.TIFF", "d.png", "e.dcm", "f") == {
        "a.jpg": "a.png",
        "b/c.TIFF": "b/c.png",
        "d.png": "d.png",
        "e.dcm": "e.dcm",
        "f": "f",
    }


@pytest.mark.parametrize(
    "sources",
    [
        ("a.jpg", "a.png"),
        ("a.jpg", "a.tif"),
        ("a.jpg", "a.tif", "a.png"),
        ("a.jpg", "a.png", "a.jpg.png"),
        ("a.jpg", "a.jpeg", "a.jpg.png", "a.jpeg.png"),
    ],
)
def test_no_two_pictures_get_one_name(sources: tuple[str, ...]) -> None:
    targets = planned(*sources)
    assert len(set(targets.values())) == len(sources)
    assert all(target == source for source, target in targets.items() if source.endswith(".png"))


def test_pictures_of_one_name_in_two_folders_keep_it() -> None:
    assert planned("x/a.jpg", "y/a.png") == {"x/a.jpg": "x/a.png", "y/a.png": "y/a.png"}


# --- Writing ----------------------------------------------------------------------------------


def test_files_are_there_once_the_check_has_passed(tmp_path: Path) -> None:
    seen = {}

    def check(parts: dict[str, Path]) -> None:
        seen.update({name: path.read_bytes() for name, path in parts.items()})
        assert not (tmp_path / "deep" / "a").exists()

    write_files(tmp_path / "deep", {"a": b"1", "b": b"2"}, check)
    assert seen == {"a": b"1", "b": b"2"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "deep").iterdir()} == seen


def test_nothing_stays_after_a_failing_check(tmp_path: Path) -> None:
    def check(parts: dict[str, Path]) -> None:
        raise PictureFailed("no")

    with pytest.raises(PictureFailed):
        write_files(tmp_path, {"a": b"1", "b": b"2"}, check)
    assert list(tmp_path.iterdir()) == []


def test_earlier_file_stays_after_a_failing_check(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")

    def check(parts: dict[str, Path]) -> None:
        raise PictureFailed("no")

    with pytest.raises(PictureFailed):
        write_files(tmp_path, {"a": b"after"}, check)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"before"}


def test_nothing_stays_after_a_failing_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_files(tmp_path, {"a": b"1"}, nothing)
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"before")
    write_files(tmp_path, {"a": b"after"}, nothing)
    assert (tmp_path / "a").read_bytes() == b"after"


def test_link_in_the_output_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    touch(tmp_path / "precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "precious")
    write_files(tmp_path / "out", {"a": b"after"}, nothing)
    assert (tmp_path / "precious").read_bytes() == b"x"
    assert (tmp_path / "out" / "a").read_bytes() == b"after"


def test_report_is_json(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", {"name": "Ä", "path": PurePosixPath("a/b")})
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Ä", "path": "a/b"}


def test_report_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    touch(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.json", {})
