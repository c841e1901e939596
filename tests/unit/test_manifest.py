"""Manifests are read strictly, and a model file is the one its manifest describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import write_convolutional_model

from miad_cli.errors import ModelUnusable
from miad_cli.models.bank import list_models
from miad_cli.models.manifest import (
    Manifest,
    checked_model_bytes,
    load_manifest,
    manifest_text,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_convolutional_model(tmp_path / "toy")
    return tmp_path / "toy"


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_shipped_models_are_the_ones_their_manifests_describe() -> None:
    folders = list_models()
    assert folders
    for folder in folders:
        manifest = load_manifest(folder)
        assert manifest.name == folder.name
        assert checked_model_bytes(folder, manifest)


def test_output_is_found_by_task(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert manifest.output_for("toy") is manifest.outputs[0]
    assert manifest.output_for("other") is None


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('role = "classifier"', 'role = "oracle"', "role"),
        ('name = "toy"', 'name = "../toy"', "name"),
        ('file = "model.onnx"', 'file = "../model.onnx"', "file"),
        ('file = "model.onnx"', 'file = "/etc/model.onnx"', "file"),
        ("schema = 1", "schema = 2", "schema"),
        ("channels = 3", "channels = 2", "channels"),
        ("rows = 8", "rows = 0", "rows"),
        ("rows = 8", "rows = 8\nstd = [1.0, 0.0, 1.0]", "std must be positive"),
        ("rows = 8", "rows = 8\nmean = [0.5, 0.5]", "mean has 2 values for 3 channels"),
        ('labels = ["no", "yes"]', 'labels = ["no"]', "labels"),
        ("columns = 8", "columns = 8\ncolums = 8", "colums"),
        ('family = "toy"', 'family = "toy"\nauthor = "me"', "author"),
        ('kind = "logits"', 'kind = "odds"', "kind"),
        ('kind = "logits"', 'kind = "mask"', "outputs.0.mask.task"),
        ('labels = ["no", "yes"]', 'labels = ["no", "no"]', "labels must differ"),
        ('labels = ["no", "yes"]', 'labels = ["no", ""]', "labels"),
        ('labels = ["no", "yes"]', 'labels = ["no", "y\\u001bes"]', "labels"),
        ("rows = 8", "rows = 8\nrange = [1.0, 0.0]", "range must go up"),
        ("rows = 8", 'rows = 8\ndtype = "int32"', "dtype"),
        ("rows = 8", 'rows = 8\ndtype = "uint8"', "uint8 input has the range 0 to 255"),
        ("rows = 8", "rows = 8\nbatch = 0", "batch"),
        ('name = "toy"', 'name = "toy."', "name"),
        ('role = "classifier"', 'role = "removal"', "one image and one mask"),
        ('role = "classifier"', 'role = "segmentation"', "a mask with its labels"),
    ],
)
def test_fault_is_named_with_its_path(folder: Path, old: str, new: str, named: str) -> None:
    edit(folder, old, new)
    with pytest.raises(ModelUnusable) as refusal:
        load_manifest(folder)
    assert named in refusal.value.message


def test_every_fault_is_named_at_once(folder: Path) -> None:
    edit(folder, 'role = "classifier"', 'role = "oracle"')
    edit(folder, "channels = 3", "channels = 2")
    with pytest.raises(ModelUnusable, match=r"(?s)role.*channels"):
        load_manifest(folder)


def test_missing_manifest_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"no manifest\.toml"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"schema = [", b"\xff\xfe"])
def test_manifest_that_is_no_toml_is_said(folder: Path, content: bytes) -> None:
    (folder / "manifest.toml").write_bytes(content)
    with pytest.raises(ModelUnusable, match="not valid TOML"):
        load_manifest(folder)


def test_model_with_another_checksum_is_refused(folder: Path) -> None:
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelUnusable, match="SHA-256 differs"):
        checked_model_bytes(folder, load_manifest(folder))


def test_missing_model_file_is_said(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelUnusable, match="cannot be read"):
        checked_model_bytes(folder, load_manifest(folder))


def test_checksum_must_be_lower_case_hexadecimal(folder: Path) -> None:
    text = (folder / "manifest.toml").read_text(encoding="utf-8")
    digest = re.search(r'sha256 = "(\w+)"', text).group(1)
    edit(folder, digest, digest.upper())
    with pytest.raises(ModelUnusable, match="sha256"):
        load_manifest(folder)


# --- Other roles, and writing -----------------------------------------------------------------

FACTS = {
    "name": "net",
    "family": "net",
    "file": "model.onnx",
    "sha256": "0" * 64,
    "input": {"tensor": "in", "rows": 32, "columns": 24},
}
IMAGE = {"kind": "image", "tensor": "picture", "range": [-1.0, 1.0]}
MASK = {"kind": "mask", "tensor": "where", "values": "logits"}
LABELLED = {**MASK, "labels": ["ground", "lesion"]}
ANSWER = {"kind": "logits", "task": "t", "tensor": "a", "labels": ["x", "y"]}


def test_removal_network_gives_an_image_and_a_mask() -> None:
    manifest = Manifest.model_validate({**FACTS, "role": "removal", "outputs": [MASK, IMAGE]})
    assert (manifest.image.tensor, manifest.mask.tensor) == ("picture", "where")
    assert manifest.answers == ()
    assert manifest.output_for("t") is None


def test_segmentation_network_gives_a_mask_with_labels() -> None:
    manifest = Manifest.model_validate({**FACTS, "role": "segmentation", "outputs": [LABELLED]})
    assert manifest.mask.labels == ("ground", "lesion")


@pytest.mark.parametrize(
    ("role", "outputs"),
    [
        ("removal", [IMAGE]),
        ("removal", [IMAGE, MASK, MASK]),
        ("removal", [IMAGE, ANSWER]),
        ("segmentation", [MASK]),
        ("segmentation", [LABELLED, IMAGE]),
        ("classifier", [ANSWER, MASK]),
        ("classifier", [ANSWER, ANSWER]),
    ],
)
def test_outputs_have_to_fit_the_role(role: str, outputs: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="output"):
        Manifest.model_validate({**FACTS, "role": role, "outputs": outputs})


def test_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    for folder in list_models():
        manifest = load_manifest(folder)
        (tmp_path / "manifest.toml").write_text(manifest_text(manifest), encoding="utf-8")
        assert load_manifest(tmp_path) == manifest
    for role, outputs in (("removal", [IMAGE, MASK]), ("segmentation", [LABELLED])):
        manifest = Manifest.model_validate({**FACTS, "role": role, "outputs": outputs})
        (tmp_path / "manifest.toml").write_text(manifest_text(manifest), encoding="utf-8")
        assert load_manifest(tmp_path) == manifest


def test_any_text_is_written_so_that_it_is_read_back(tmp_path: Path) -> None:
    odd = 'Müller "quoted" \\ back\tslash = [x] # no comment \x7f 心'
    data = [{"task": "t", "name": odd, "licence": "line\nbreak"}]
    facts = {**FACTS, "role": "classifier", "query_only": odd, "outputs": [ANSWER], "data": data}
    manifest = Manifest.model_validate(facts)
    (tmp_path / "manifest.toml").write_text(manifest_text(manifest), encoding="utf-8")
    assert load_manifest(tmp_path) == manifest
    assert load_manifest(tmp_path).data[0].name == odd
