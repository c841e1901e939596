"""A stranger's model is probed, not guessed at; what cannot run is refused with its reason."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import write_convolutional_model
from onnx import TensorProto, helper
from strangers import model, remover, segmenter, stranger

from miad_cli.errors import MiadError, ModelUnusable, OutputExists, UsageError
from miad_cli.models import bank as bank_room
from miad_cli.models import installed
from miad_cli.models.bank import Surrogate, list_models, load_bank
from miad_cli.models.check import check_model
from miad_cli.models.graph import Graph
from miad_cli.models.installed import (
    add_folder,
    add_model,
    installed_models,
    name_for,
    remove_model,
)
from miad_cli.models.manifest import Manifest, load_manifest
from miad_cli.models.places import user_models_directory
from miad_cli.models.probe import Wishes, describe
from miad_cli.models.session import Device

CPU = Device()
UNIT = (0.0, 1.0)


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    monkeypatch.setattr(bank_room, "models_directory", lambda: shipped)
    return shipped


def wishes(**given: Any) -> Wishes:
    return Wishes(**{"name": "net", "labels": ("a", "b", "c"), "range": UNIT, **given})


def described(proto: onnx.ModelProto, **given: Any) -> Manifest:
    return describe(proto.SerializeToString(), wishes(**given)).manifest


def refusal(proto: onnx.ModelProto | bytes, **given: Any) -> MiadError:
    content = proto if isinstance(proto, bytes) else proto.SerializeToString()
    with pytest.raises(MiadError) as refused:
        describe(content, wishes(**given))
    return refused.value


# --- Probing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 150, 299])
def test_layout_channels_and_size_are_read(layout: str, channels: int, side: int) -> None:
    proto = stranger(layout=layout, channels=channels, planes=channels, side=side)
    spec = described(proto).input
    assert (spec.layout, spec.channels) == (layout, channels)
    assert (spec.rows, spec.columns, spec.batch) == (side, side, None)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("planes", [1, 3])
def test_what_the_file_leaves_open_is_tried(layout: str, planes: int) -> None:
    proto = stranger(layout=layout, channels="c", planes=planes, side="s")
    spec = described(proto, size=(40, 56)).input
    assert (spec.layout, spec.channels, spec.rows, spec.columns) == (layout, planes, 40, 56)


def test_open_size_is_asked_for() -> None:
    error = refusal(stranger(side="s"))
    assert isinstance(error, UsageError)
    assert "any size (? x ? x ? x 3)" in error.message
    assert "--input 224x224" in error.hint


def test_size_that_the_file_denies_is_refused() -> None:
    error = refusal(stranger(side=64), size=(32, 32))
    assert isinstance(error, UsageError)
    assert "64 x 64 x 3; --input says something else" in error.message


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch_is_read(batch: int) -> None:
    assert described(stranger(side=32, batch=batch)).input.batch == batch


def test_batch_that_only_pretends_to_be_free_is_found_out() -> None:
    """A Reshape to one row, as careless exports have it."""
    proto = stranger(side=32)
    flatten = next(node for node in proto.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("row")
    row = np.array([1, 8], np.int64)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(row, "row"))
    assert described(proto).input.batch == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_element_type_is_read(dtype: str) -> None:
    manifest = described(stranger(side=32, dtype=dtype), range=None if dtype == "uint8" else UNIT)
    assert manifest.input.dtype == dtype
    assert manifest.input.range == ((0, 255) if dtype == "uint8" else (0, 1))
    assert manifest.query_only is None


@pytest.mark.parametrize(
    ("scale", "taken"), [(1 / 255, (0, 255)), (1 / 127.5, (0, 255)), (255.0, (0, 1))]
)
def test_range_is_seen_where_the_graph_scales(scale: float, taken: tuple[float, float]) -> None:
    assert described(stranger(side=32, scale=scale), range=None).input.range == taken


def scaled(*steps: tuple[str, Any]) -> bytes:
    """A graph that does `steps` to its picture first."""
    weights = {"kernel": np.ones((2, 3, 1, 1), np.float32)}
    nodes, now = [], "picture"
    for number, (kind, value) in enumerate(steps):
        weights[f"v{number}"] = np.asarray(value, np.float32)
        nodes.append(helper.make_node(kind, [now, f"v{number}"], [f"s{number}"]))
        now = f"s{number}"
    nodes.append(helper.make_node("Conv", [now, "kernel"], ["out"]))
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 2, 16, 16])
    return bytes(model(nodes, [picture], [out], weights).SerializeToString())


@pytest.mark.parametrize(
    ("steps", "mean", "std"),
    [
        ([("Sub", 127.5), ("Div", 127.5)], (127.5,), (127.5,)),
        ([("Mul", 1 / 255), ("Sub", 0.5), ("Div", 0.5)], (127.5,), (127.5,)),
        ([("Div", 127.5), ("Add", -1.0)], (127.5,), (127.5,)),
        ([("Add", 1.0), ("Mul", 0.5)], (-1.0,), (2.0,)),
        (
            [
                ("Sub", np.reshape([0.485, 0.456, 0.406], (1, 3, 1, 1))),
                ("Div", np.reshape([0.229, 0.224, 0.225], (1, 3, 1, 1))),
            ],
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
        ),
    ],
)
def test_scaling_is_read_as_a_mean_and_a_deviation(
    steps: list[tuple[str, Any]], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    found = Graph(scaled(*steps)).scaling()
    assert found is not None
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.std, std, rtol=1e-5)


def test_nothing_is_read_where_nothing_scales() -> None:
    assert Graph(scaled()).scaling() is None


def test_range_that_nothing_tells_is_asked_for() -> None:
    error = refusal(stranger(side=32), range=None)
    assert isinstance(error, UsageError)
    assert "--range 0..1, 0..255 or -1..1" in error.hint


@pytest.mark.parametrize(("mean", "taken"), [((0.5,), (0, 1)), ((104.0, 117.0, 123.0), (0, 255))])
def test_mean_tells_the_range(mean: tuple[float, ...], taken: tuple[float, float]) -> None:
    found = describe(
        stranger(side=32).SerializeToString(), wishes(range=None, mean=mean, std=(1.0,))
    )
    assert found.manifest.input.range == taken
    assert found.manifest.input.mean == mean
    assert any("mean and std are taken to be in the range" in note for note in found.notes)


def test_mean_of_too_many_channels_is_refused() -> None:
    assert "mean has 2 values" in refusal(stranger(side=32), mean=(0.5, 0.5)).message


@pytest.mark.parametrize(
    ("ending", "classes", "kind"),
    [
        ("softmax", 3, "probabilities"),
        ("none", 3, "logits"),
        ("sigmoid", 1, "probabilities"),
        ("none", 1, "logits"),
    ],
)
def test_logits_are_told_from_probabilities(ending: str, classes: int, kind: str) -> None:
    labels = ("a", "b", "c")[: max(classes, 2)]
    manifest = described(stranger(side=32, ending=ending, classes=classes), labels=labels)
    assert manifest.answers[0].kind == kind
    assert manifest.answers[0].labels == labels


def test_output_with_the_labels_is_found_among_others() -> None:
    proto = stranger(side=32)
    features = next(node for node in proto.graph.node if node.op_type == "Flatten").output[0]
    proto.graph.output.insert(
        0, helper.make_tensor_value_info(features, TensorProto.FLOAT, ["n", 8])
    )
    manifest = described(proto, features=features)
    assert manifest.answers[0].tensor == proto.graph.output[1].name
    assert manifest.features.tensor == features


def test_two_outputs_that_could_be_meant_are_asked_about() -> None:
    proto = stranger(side=32)
    logits = next(node for node in proto.graph.node if node.op_type == "Gemm").output[0]
    proto.graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["n", 3]))
    assert "several outputs could be the answer" in refusal(proto).message
    assert described(proto, outputs={"answer": logits}).answers[0].kind == "logits"
    assert "no float output ghost" in refusal(proto, outputs={"answer": "ghost"}).message


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_last_map_serves_for_grad_cam(layout: str) -> None:
    proto = stranger(layout=layout, side=64)
    last = [node for node in proto.graph.node if node.op_type == "Relu"][-1].output[0]
    assert described(proto).cam.tensor == last
    assert described(proto, cam="none").cam is None
    assert isinstance(refusal(proto, cam="ghost"), UsageError)


@pytest.mark.parametrize(
    ("breaking", "reason"), [("ml", "Unsupported ONNX operator: Scaler"), ("round", "vanish")]
)
def test_model_without_gradients_serves_for_queries(breaking: str, reason: str) -> None:
    found = describe(stranger(side=32, breaking=breaking).SerializeToString(), wishes())
    assert reason in found.manifest.query_only
    assert not found.manifest.looks
    assert any("occlusion" in note for note in found.notes)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_removal_network_is_described(layout: str, scale: float) -> None:
    manifest = described(remover(layout, scale=scale), role="removal", labels=())
    assert (manifest.image.tensor, manifest.image.range) == ("image", (0, scale))
    assert (manifest.mask.tensor, manifest.mask.values) == ("mask", "probabilities")
    assert manifest.query_only is None


@pytest.mark.parametrize(("channels", "labels"), [(1, ("a", "b")), (3, ("a", "b", "c"))])
def test_segmentation_network_is_described(channels: int, labels: tuple[str, ...]) -> None:
    manifest = described(segmenter(channels), role="segmentation", labels=labels)
    assert (manifest.mask.tensor, manifest.mask.values) == ("where", "logits")
    assert manifest.mask.labels == labels


# --- Refusing ---------------------------------------------------------------------------------


def external() -> onnx.ModelProto:
    proto = stranger(side=32)
    onnx.external_data_helper.set_external_data(proto.graph.initializer[0], "/etc/passwd")
    proto.graph.initializer[0].ClearField("raw_data")
    return proto


def with_foreign_operator() -> onnx.ModelProto:
    proto = stranger(side=32)
    proto.graph.node[-1].domain = "com.example"
    return proto


def with_unknown_operator() -> onnx.ModelProto:
    proto = stranger(side=32)
    proto.graph.node[-1].op_type = "Softerest"
    return proto


def with_two_inputs() -> onnx.ModelProto:
    proto = stranger(side=32)
    proto.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1]))
    return proto


def with_wide_input() -> onnx.ModelProto:
    proto = stranger(side=32)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def with_flat_input() -> onnx.ModelProto:
    proto = stranger(side=32)
    del proto.graph.input[0].type.tensor_type.shape.dim[1:]
    proto.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 784
    return proto


def with_nans() -> onnx.ModelProto:
    proto = stranger(side=32, ending="none")
    for one in proto.graph.initializer:
        if one.name == "bias":
            one.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), "bias"))
    return proto


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: b"", "not an ONNX file"),
        (lambda: b"no model at all" * 100, "not an ONNX file"),
        (lambda: onnx.ModelProto(ir_version=9), "not an ONNX file"),
        (lambda: stranger(side=32).SerializeToString()[:-700], "not an ONNX file|cannot load"),
        (external, "keeps its weights in another file"),
        (with_foreign_operator, r"operators that ONNX has not: com\.example\.Softmax"),
        (with_unknown_operator, "Softerest"),
        (with_two_inputs, r"takes 2 inputs \(picture, age\)"),
        (with_wide_input, "its input picture is int64"),
        (with_flat_input, "its input picture has 2 axes"),
        (with_nans, "not a number"),
        (lambda: stranger(side=32, ending="argmax"), "no float output"),
        (lambda: stranger(side=32, ending="sigmoid"), "yes or no to each class by itself"),
        (lambda: stranger(side=32, channels=4, planes=4), "pictures have 1 or 3 channels"),
        (lambda: stranger(side=32, channels=3, planes=4), "cannot load|cannot run"),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(made: Any, reason: str) -> None:
    with pytest.raises(ModelUnusable, match=reason):
        made_now = made()
        content = made_now if isinstance(made_now, bytes) else made_now.SerializeToString()
        describe(content, wishes())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"labels": ()}, "a classifier needs its classes"),
        ({"labels": ("a", "b")}, "--labels names 2 classes.*gives 3"),
        ({"labels": ("a", "b", "b")}, "labels must differ"),
        ({"labels": ("a", "b", "")}, "labels"),
        ({"role": "removal"}, "a removal network has no classes"),
        ({"role": "removal", "labels": ()}, "no output is a image|no output is"),
        ({"outputs": {"mask": "x"}}, "a mask, which a model for classifier has not"),
        ({"role": "segmentation", "labels": ()}, "needs its labels"),
        ({"role": "segmentation", "cam": "x"}, "are for classifiers"),
        ({"features": "ghost"}, "ghost is no output"),
        ({"size": (4, 4)}, "something else"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        describe(stranger(side=32).SerializeToString(), wishes(**given))


def test_mask_of_another_size_is_refused() -> None:
    error = refusal(segmenter(3, stride=4), role="segmentation")
    assert "where is 3x8x8" in error.message


# --- Adding and removing ----------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Wards Net.onnx"
    path.write_bytes(stranger(side=32).SerializeToString())
    return path


def test_added_model_lies_in_the_users_folder_and_is_found(file: Path) -> None:
    added = add_model(file, wishes(name="wards-net"))
    assert added.folder == user_models_directory() / "wards-net"
    assert load_manifest(added.folder) == added.manifest
    content = (added.folder / "model.onnx").read_bytes()
    assert content == file.read_bytes()
    assert added.manifest.sha256 == hashlib.sha256(content).hexdigest()
    assert list_models() == [added.folder]
    assert sorted(path.name for path in user_models_directory().iterdir()) == ["wards-net"]
    bank = load_bank(None, ["wards-net"], None, CPU)
    assert (bank.task, bank.attention_by) == ("wards-net", "grad-cam")


def test_dry_run_writes_nothing(file: Path) -> None:
    added = add_model(file, wishes(), dry_run=True)
    assert added.manifest.name == "net"
    assert not user_models_directory().exists()


def test_name_that_is_taken_is_refused_unless_it_is_to_be_replaced(
    file: Path, nothing_shipped: Path
) -> None:
    add_model(file, wishes())
    with pytest.raises(OutputExists, match="there already"):
        add_model(file, wishes())
    again = add_model(file, wishes(range=(0.0, 255.0)), replacing=True)
    assert again.replaced
    assert load_manifest(again.folder).input.range == (0, 255)
    assert sorted(path.name for path in user_models_directory().iterdir()) == ["net"]
    write_convolutional_model(nothing_shipped / "ours")
    for replacing in (False, True):
        with pytest.raises(OutputExists, match="ships with miad"):
            add_model(file, wishes(name="ours"), replacing=replacing)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "a/b", "/abs", "a\\b", ".hidden", "A", "-flag", "con", "nul.x",
     "a" * 65, "tail.", "a\n", "ä", "a\0"],
)  # fmt: skip
def test_name_that_leads_elsewhere_is_refused(file: Path, name: str) -> None:
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(UsageError, match="no name for a model"):
        add_model(file, wishes(name=name))
    assert sorted(file.parent.rglob("*")) == before
    assert not user_models_directory().exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [("Wards Net.onnx", "wards-net"), ("../x/..net.onnx", "net"), ("Größe 2.onnx", "gr-e-2")],
)
def test_name_is_made_of_the_files(path: str, name: str) -> None:
    assert name_for(Path(path)) == name


def test_name_that_cannot_be_made_is_asked_for() -> None:
    with pytest.raises(UsageError, match="no name can be made") as refused:
        name_for(Path("心.onnx"))
    assert "--name" in refused.value.hint


def test_task_is_the_one_with_the_same_labels(file: Path, nothing_shipped: Path) -> None:
    add_model(file, wishes(name="one", task="animals"))
    second = add_model(file, wishes(name="two", labels=("c", "a", "b")))
    assert second.manifest.answers[0].task == "animals"
    third = add_model(file, wishes(name="three", labels=("x", "y", "z")))
    assert third.manifest.answers[0].task == "three"
    with pytest.raises(UsageError, match="one answers animals with other labels: a, b, c"):
        add_model(file, wishes(name="four", task="animals", labels=("x", "y", "z")))
    assert not (user_models_directory() / "four").exists()


def test_file_that_is_not_there_or_too_large_is_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnusable, match="no such file"):
        add_model(tmp_path / "ghost.onnx", wishes())
    monkeypatch.setattr(installed, "LARGEST", file.stat().st_size - 1)
    with pytest.raises(ModelUnusable, match="too large"):
        add_model(file, wishes())


def test_refusal_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    with pytest.raises(ModelUnusable, match=r"text\.onnx: it is not an ONNX file"):
        add_model(path, wishes())
    assert list_models() == []


def test_folder_is_added_with_its_manifest(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    added = add_folder(tmp_path / "toy", "mine")
    assert load_manifest(added.folder).model_dump(exclude={"name"}) == (
        load_manifest(tmp_path / "toy").model_dump(exclude={"name"})
    )
    assert load_manifest(added.folder).name == "mine"
    with (tmp_path / "toy" / "model.onnx").open("ab") as target:
        target.write(b"\0")
    with pytest.raises(ModelUnusable, match="SHA-256 differs"):
        add_folder(tmp_path / "toy", "other")


def test_folder_whose_manifest_is_wrong_is_refused(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    path = tmp_path / "toy" / "manifest.toml"
    path.write_text(path.read_text().replace('["no", "yes"]', '["no", "yes", "perhaps"]'))
    with pytest.raises(ModelUnusable, match="answer has 2 classes, and its manifest names 3"):
        add_folder(tmp_path / "toy")


def test_folder_with_data_elsewhere_is_refused(tmp_path: Path) -> None:
    """Nor is it loaded where it lies: an engine would read whatever file it names."""
    folder = tmp_path / "toy"
    write_convolutional_model(folder)
    content = external().SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    path = folder / "manifest.toml"
    old = load_manifest(folder).sha256
    path.write_text(path.read_text().replace(old, hashlib.sha256(content).hexdigest()))
    with pytest.raises(ModelUnusable, match="keeps its weights in another file"):
        add_folder(folder)
    with pytest.raises(ModelUnusable, match="keeps its weights in another file"):
        _ = Surrogate(folder, CPU).session


def test_only_own_models_are_removed(file: Path, nothing_shipped: Path) -> None:
    folder = add_model(file, wishes()).folder
    write_convolutional_model(nothing_shipped / "ours")
    with pytest.raises(UsageError, match="ships with miad and stays"):
        remove_model("ours")
    for name in ("ghost", "../net", str(folder), ""):
        with pytest.raises(UsageError, match="no model of your own"):
            remove_model(name)
    assert remove_model("net") == folder
    assert list(user_models_directory().iterdir()) == []
    assert (nothing_shipped / "ours" / "model.onnx").exists()


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    user_models_directory().mkdir(parents=True)
    (user_models_directory() / "toy").symlink_to(tmp_path / "toy")
    remove_model("toy")
    assert not os.path.lexists(user_models_directory() / "toy")
    assert (tmp_path / "toy" / "model.onnx").exists()


def test_broken_model_hides_no_other_and_can_be_removed(file: Path) -> None:
    add_model(file, wishes(name="good"))
    folder = add_model(file, wishes(name="bad")).folder
    (folder / "manifest.toml").write_text("schema = [")
    faults = {one.name: one.fault for one in installed_models()}
    assert faults["good"] == ""
    assert "not valid TOML" in faults["bad"]
    remove_model("bad")
    assert [one.name for one in installed_models()] == ["good"]


# --- Checking ---------------------------------------------------------------------------------


def test_sound_model_passes(file: Path) -> None:
    checked = check_model(add_model(file, wishes()).folder, CPU)
    assert checked.ok, checked.reason
    assert (checked.sha256, checked.queries, checked.gradients) == ("ok", "ok", "ok")
    assert checked.difference < 1e-4
    assert checked.slope < 0.05


def test_query_only_model_passes_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    path.write_bytes(stranger(side=32, breaking="ml").SerializeToString())
    checked = check_model(add_model(path, wishes()).folder, CPU)
    assert checked.ok
    assert checked.gradients == "query-only"


@pytest.mark.parametrize("role", ["removal", "segmentation"])
def test_other_roles_are_checked(tmp_path: Path, role: Any) -> None:
    path = tmp_path / "m.onnx"
    proto = remover() if role == "removal" else segmenter(3)
    path.write_bytes(proto.SerializeToString())
    labels = () if role == "removal" else ("a", "b", "c")
    folder = add_model(path, wishes(role=role, labels=labels)).folder
    assert check_model(folder, CPU).ok
    text = (folder / "manifest.toml").read_text()
    text = text.replace("rows = 32", "rows = 16")
    (folder / "manifest.toml").write_text(text)
    checked = check_model(folder, CPU)
    assert not checked.ok
    assert checked.queries == "failed"


def test_changed_file_fails(file: Path) -> None:
    folder = add_model(file, wishes()).folder
    with (folder / "model.onnx").open("ab") as target:
        target.write(b"\0")
    checked = check_model(folder, CPU)
    assert (checked.ok, checked.sha256, checked.queries) == (False, "failed", "not tried")
    assert "SHA-256 differs" in checked.reason


def test_gradients_that_a_manifest_promises_in_vain_fail(tmp_path: Path) -> None:
    for breaking in ("ml", "round"):
        path = tmp_path / "q.onnx"
        path.write_bytes(stranger(side=32, breaking=breaking).SerializeToString())
        folder = add_model(path, wishes(), replacing=True).folder
        manifest = folder / "manifest.toml"
        lines = manifest.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("query_only")]
        assert len(kept) == len(lines) - 1
        manifest.write_text("\n".join(kept))
        checked = check_model(folder, CPU)
        assert (checked.ok, checked.queries, checked.gradients) == (False, "ok", "failed")


def test_gradient_that_is_not_the_slope_is_found_out(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that detaches half of what it computes: values agree, gradients do not."""
    from miad_cli.models.gradients import Differentiable

    folder = add_model(file, wishes()).folder
    ask = Differentiable.__call__

    def half(self: Differentiable, fed: Any) -> dict[str, Any]:
        return {name: 0.5 * (one + one.detach()) for name, one in ask(self, fed).items()}

    monkeypatch.setattr(Differentiable, "__call__", half)
    checked = check_model(folder, CPU)
    assert "not their gradient" in checked.reason
    assert checked.slope == pytest.approx(0.5, abs=0.1)
