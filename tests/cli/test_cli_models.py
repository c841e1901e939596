"""`miad models`: what people bring is probed, kept, used to protect, checked and taken out."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from strangers import remover, segmenter, stranger

LABELS = "cat,dog,cow"


@pytest.fixture
def write(work):
    """Write a stranger's model into the working folder."""

    def call(name, proto=None, **settings):
        path = work / name
        path.write_bytes((proto or stranger(**settings)).SerializeToString())
        return path

    return call


@pytest.fixture
def protects(miad, study, logo, work, digests):
    """Protect, verify and unlock the study with the models named; gives what protect said."""

    def call(*models):
        named = [one for model in models for one in ("--models", model)]
        said = miad(
            "protect", "study", "--logo", logo, "--key-out", "key.txt", "--json", *named
        )  # fmt: skip
        assert said.code == 0, said.err
        assert miad("verify", "study-protected", "--key", "key.txt").code == 0
        assert miad("unlock", "study-protected", "--key", "key.txt").code == 0
        assert digests(work / "study-unlocked") == digests(study)
        assert digests(work / "study-protected") != digests(study)
        return said.json

    return call


# --- Protecting with it -----------------------------------------------------------------------


def test_a_softmax_model_of_150_px_in_nhwc_is_added_and_protects(miad, write, protects, home):
    write("Ward 7 (final).onnx", layout="NHWC", side=150, ending="softmax")

    added = miad(
        "models", "add", "Ward 7 (final).onnx", "--labels", LABELS, "--range", "0..1",
        "--family", "convnet", "--data", "Ward 7", "--licence", "ours",
    )  # fmt: skip

    assert added.code == 0, added.err
    assert "added: ward-7-final" in added.out
    assert "NHWC 150 x 150 x 3, float32, 0..1, any number at a time" in added.out
    assert "(probabilities): cat, dog, cow" in added.out
    assert "gradients: yes" in added.out
    assert (home / "models" / "ward-7-final" / "model.onnx").is_file()
    shown = miad("models", "show", "ward-7-final").json
    assert shown["gradients"] is True
    assert shown["cam"] is not None
    listed = miad("models", "list")
    assert "ward-7-final" in listed.out
    assert "Ward 7" in listed.out
    assert str(home / "models") in listed.out
    report = protects("ward-7-final")
    assert {one["task"] for one in report["files"]} == {"ward-7-final"}
    assert {one["models"] for one in report["files"]} == {1}
    assert report["fooled"]["of"] == 2


STRANGERS = {
    "grey of 28 px, NHWC, logits": (
        {"side": 28, "channels": 1, "planes": 1, "ending": "none"},
        ("--labels", LABELS, "--range", "-1..1"),
        {"layout": "NHWC", "channels": 1, "rows": 28, "range": [-1, 1]},
    ),
    "integers": (
        {"side": 64, "dtype": "uint8"},
        ("--labels", LABELS),
        {"dtype": "uint8", "range": [0, 255]},
    ),
    "one sigmoid for two classes": (
        {"side": 64, "ending": "sigmoid", "classes": 1},
        ("--labels", "benign,malignant", "--range", "0..1"),
        {"layout": "NHWC"},
    ),
    "one picture at a time, 299 px": (
        {"side": 299, "batch": 1, "layout": "NCHW"},
        ("--labels", LABELS, "--range", "0..255"),
        {"batch": 1, "layout": "NCHW", "rows": 299},
    ),
    "any size": (
        {"side": "s", "channels": "c", "layout": "NCHW"},
        ("--labels", LABELS, "--range", "0..1", "--input", "96x80"),
        {"rows": 96, "columns": 80, "channels": 3, "layout": "NCHW"},
    ),
    "scales by itself": (
        {"side": 64, "scale": 1 / 255},
        ("--labels", LABELS),
        {"range": [0, 255]},
    ),
    "half precision": (
        {"side": 64, "dtype": "float16", "layout": "NCHW"},
        ("--labels", LABELS, "--range", "0..1"),
        {"dtype": "float16"},
    ),
    "no gradients": (
        {"side": 64, "breaking": "ml"},
        ("--labels", LABELS, "--range", "0..1"),
        {},
    ),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_every_kind_of_stranger_protects(miad, write, protects, kind):
    settings, options, expected = STRANGERS[kind]
    write("net.onnx", **settings)

    added = miad("models", "add", "net.onnx", *options, "--json")

    assert added.code == 0, added.err
    model = added.json["model"]
    assert {name: model["input"][name] for name in expected} == expected
    assert model["gradients"] is (kind != "no gradients")
    checked = miad("models", "check", "net", "--json")
    assert (checked.code, checked.json["models"][0]["ok"]) == (0, True)
    report = protects("net")
    assert all(one["fooled"] is not None for one in report["files"])


def test_a_mean_and_a_deviation_for_each_channel_are_kept(miad, write):
    write("net.onnx", side=64)
    imagenet = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")

    said = miad("models", "add", "net.onnx", "--labels", LABELS, *imagenet, "--bgr", "--json")

    taken = said.json["model"]["input"]
    assert (taken["range"], taken["colours"]) == ([0, 1], "BGR")
    assert (taken["mean"], taken["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert "mean and std are taken to be in the range 0..1" in said.json["notes"]
    assert miad("models", "check", "net").code == 0


def test_a_model_without_gradients_is_said_to_be_one(miad, write):
    write("q.onnx", side=64, breaking="ml")

    said = miad("models", "add", "q.onnx", "--labels", LABELS, "--range", "0..1")

    assert "gradients: no, queries only" in said.out
    assert "Scaler" in said.out
    shown = miad("models", "show", "q").json
    assert shown["gradients"] is False
    assert "Scaler" in shown["query_only"]
    assert "query-only" in miad("models", "check", "q").out


def test_a_model_is_used_by_its_path_too(miad, write, protects, home):
    path = write("net.onnx", side=64)
    miad("models", "add", path, "--labels", LABELS, "--range", "0..1")

    assert protects(path)["exit_code"] == 0


def test_a_file_that_nobody_described_is_misuse(miad, write, study, logo, left, work):
    path = write("net.onnx", side=64)

    said = miad("protect", "study", "--logo", logo, "--models", path)

    assert said.code == 2
    assert "nothing says what this model answers" in said.err
    assert "miad models add" in said.err
    assert not (work / "study-protected").exists()


def test_a_model_of_a_known_task_joins_the_others(miad, write, study, logo, heads):
    write("net.onnx", side=64, classes=2)

    added = miad("models", "add", "net.onnx", "--labels", "light,dark", "--range", "0..1", "--json")

    assert added.json["model"]["outputs"][0]["task"] == "brain_mri"
    said = miad("protect", "study", "--logo", logo, "--profile", heads, "--json")
    assert said.code == 0
    assert {one["models"] for one in said.json["files"]} == {3}


def test_a_changed_model_is_refused(miad, write, study, logo, home, work):
    write("net.onnx", side=64)
    miad("models", "add", "net.onnx", "--labels", LABELS, "--range", "0..1")
    with (home / "models" / "net" / "model.onnx").open("ab") as target:
        target.write(b"\0")

    checked = miad("models", "check")
    protected = miad("protect", "study", "--logo", logo, "--models", "net")

    assert (checked.code, protected.code) == (11, 11)
    assert "failed net: net:" in checked.err
    assert "SHA-256 differs" in checked.err
    assert "SHA-256 differs" in protected.err
    facts = {one["name"]: one for one in miad("models", "check", "--json").json["models"]}
    assert (facts["net"]["ok"], facts["net"]["sha256"]) == (False, "failed")
    assert facts["responsive"]["ok"] is True
    assert not any((work / "study-protected").rglob("*.dcm"))


# --- Other roles ------------------------------------------------------------------------------


def test_a_removal_network_is_added_and_is_no_classifier(miad, write, study, logo):
    write("off.onnx", remover("NHWC", scale=255.0))

    added = miad("models", "add", "off.onnx", "--role", "removal", "--range", "0..1", "--json")

    outputs = {one["kind"]: one for one in added.json["model"]["outputs"]}
    assert outputs["image"]["range"] == [0, 255]
    assert outputs["mask"]["values"] == "probabilities"
    assert miad("models", "check", "off").code == 0
    said = miad("protect", "study", "--logo", logo, "--models", "off")
    assert said.code == 2
    assert "off is no classifier: its role is removal" in said.err


def test_a_segmentation_network_is_added(miad, write):
    write("seg.onnx", segmenter(3))
    options = ("--role", "segmentation", "--range", "0..1", "--output", "where")

    said = miad("models", "add", "seg.onnx", *options, "--labels", "ground,organ,lesion")

    assert said.code == 0, said.err
    assert "where (logits): ground, organ, lesion" in said.out
    assert "segmentation" in miad("models", "list").out


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "options", "settings"),
    [
        (2, "a classifier needs its classes", ("--range", "0..1"), {}),
        (2, "--labels names 2 classes", ("--labels", "a,b", "--range", "0..1"), {}),
        (2, "nothing in the file tells", ("--labels", LABELS), {}),
        (2, "any size", ("--labels", LABELS, "--range", "0..1"), {"side": "s"}),
        (2, "is no size", ("--labels", LABELS, "--input", "big"), {}),
        (2, "either the first or the last", ("--labels", LABELS, "--input", "3x64x3"), {}),
        (2, "is no range", ("--labels", LABELS, "--range", "1..0"), {}),
        (2, "is no range", ("--labels", LABELS, "--range", "0..1..2"), {}),
        (2, "numbers with commas", ("--labels", LABELS, "--mean", "x"), {}),
        (2, "no name for a model", ("--labels", LABELS, "--name", "../x"), {}),
        (2, "no name for a model", ("--labels", LABELS, "--name", ""), {}),
        (8, "ships with miad", ("--labels", LABELS, "--name", "stubborn"), {}),
        (11, "no float output", ("--labels", LABELS, "--range", "0..1"), {"ending": "argmax"}),
        (
            11,
            "1 or 3 channels",
            ("--labels", LABELS, "--range", "0..1"),
            {"channels": 2, "planes": 2},
        ),
    ],
)
def test_what_cannot_be_added_is_refused(
    miad, write, left, work, home, code, reason, options, settings
):
    write("net.onnx", **{"side": 64, **settings})
    before = left(work)

    said = miad("models", "add", "net.onnx", *options)
    as_json = miad("models", "add", "net.onnx", *options, "--json")

    assert (said.code, said.out) == (code, "")
    assert reason in said.err
    assert "Traceback" not in said.err
    assert as_json.code == as_json.json["exit_code"] == code
    assert left(work) == before
    assert not (home / "models").exists()


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\x08\x09" * 5000])
def test_what_is_no_model_is_refused(miad, work, content):
    (work / "net.onnx").write_bytes(content)

    said = miad("models", "add", "net.onnx", "--labels", LABELS)

    assert said.code == 11
    assert "error: net.onnx: it is not an ONNX file" in said.err


def test_a_file_that_is_not_there_is_refused(miad, work):
    said = miad("models", "add", "ghost.onnx", "--labels", LABELS)

    assert (said.code, said.out) == (11, "")
    assert "error: ghost.onnx: no such file" in said.err


def test_a_name_that_is_taken_needs_replace(miad, write):
    write("net.onnx", side=64)
    command = ("models", "add", "net.onnx", "--labels", LABELS, "--range", "0..1")

    assert miad(*command, "--dry-run").code == 0
    assert miad("models", "show", "net").code == 2
    assert miad(*command).code == 0
    again = miad(*command)
    assert again.code == 8
    assert "--replace" in again.err
    assert "replaced: net" in miad(*command, "--replace").out


def test_a_folder_is_added_as_it_is(miad, tiny_models, home):
    refused = miad("models", "add", tiny_models / "responsive", "--labels", LABELS)
    added = miad("models", "add", tiny_models / "responsive", "--name", "mine")

    assert refused.code == 2
    assert "a folder has a manifest" in refused.err
    assert added.code == 0
    assert miad("models", "show", "mine").json["features"] == {"tensor": "features"}


# --- List, show, remove -----------------------------------------------------------------------


def test_models_are_listed_with_what_is_known_of_them(miad):
    said = miad("models", "list")
    facts = miad("models", "list", "--json").json["models"]

    assert said.code == 0
    for word in ("responsive", "stubborn", "classifier", "32x32", "brain_mri", "not stated"):
        assert word in said.out
    assert [one["name"] for one in facts] == ["responsive", "stubborn"]
    assert all(one["shipped"] and one["gradients"] for one in facts)
    assert all(one["folder"].endswith(one["name"]) for one in facts)


def test_every_shipped_model_passes_with_its_licence_named(miad_process):
    checked = miad_process("models", "check", "--json")
    listed = miad_process("models", "list", "--json")

    assert checked.code == 0, checked.err
    assert checked.json["models"]
    assert all(one["gradients"] == "ok" for one in checked.json["models"])
    for one in listed.json["models"]:
        assert one["data"], one["name"]
        assert all(data["licence"] for data in one["data"])


def test_a_broken_model_is_named_and_hides_no_other(miad, write, home):
    write("net.onnx", side=64)
    miad("models", "add", "net.onnx", "--labels", LABELS, "--range", "0..1")
    (home / "models" / "net" / "manifest.toml").write_text("schema = [")

    said = miad("models", "list")

    assert said.code == 11
    assert "stubborn" in said.out
    assert "failed net:" in said.err
    assert "miad models remove net" in said.err
    assert miad("models", "list", "--json").json["unusable"][0]["name"] == "net"
    assert miad("models", "remove", "net").code == 0
    assert miad("models", "list").code == 0


@pytest.mark.parametrize("command", ["show", "remove", "check"])
def test_a_model_that_is_not_there_is_misuse(miad, command):
    said = miad("models", command, "ghost")

    assert (said.code, said.out) == (2, "")
    assert "ghost" in said.err


def test_own_models_are_removed_and_shipped_ones_stay(miad, write, left, home):
    write("net.onnx", side=64)
    miad("models", "add", "net.onnx", "--labels", LABELS, "--range", "0..1")

    assert miad("models", "remove", "stubborn").code == 2
    said = miad("models", "remove", "net", "--json")

    assert (said.code, said.json["name"]) == (0, "net")
    assert left(home / "models") == []


def test_labels_cannot_write_to_the_terminal(miad, write):
    write("net.onnx", side=64)

    said = miad("models", "add", "net.onnx", "--labels", "a,b\x1b[31m,c", "--range", "0..1")

    assert said.code == 2
    assert "\x1b[31m" not in said.err


def test_a_model_that_does_not_notice_pictures_is_remarked_on(miad, write):
    proto = stranger(side=64, ending="none")
    for one in proto.graph.initializer:
        if one.name == "head":
            one.CopyFrom(numpy_helper.from_array(np.zeros((8, 3), np.float32), "head"))
    write("net.onnx", proto)

    said = miad("models", "add", "net.onnx", "--labels", LABELS, "--range", "0..1")

    assert said.code == 0
    assert "answers the same whatever it sees" in said.out
