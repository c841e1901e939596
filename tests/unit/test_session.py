"""Models answer what their graphs say, in any layout, and their gradients are those of Eq. 7."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import (
    CONVOLUTION,
    HEAD,
    SIDE,
    write_convolutional_model,
    write_flat_model,
)
from onnx import ModelProto, numpy_helper
from strangers import remover, segmenter, stranger

from miad_cli.errors import DeviceUnavailable, ModelUnusable
from miad_cli.models import session as room
from miad_cli.models.bank import Surrogate, list_models
from miad_cli.models.gradients import Differentiable
from miad_cli.models.manifest import InputSpec, Manifest
from miad_cli.models.session import Device, Session, choose_device, luminance, model_input, softmax

CPU = Device()
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def views(count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, SIDE, SIDE), np.float32)


def fake_runtime(monkeypatch: pytest.MonkeyPatch, *providers: str) -> None:
    runtime = SimpleNamespace(get_available_providers=lambda: list(providers))
    monkeypatch.setattr(room, "_onnxruntime", lambda: runtime)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_model_answers_in_its_own_layout(
    tmp_path: Path, layout: str, channels: int, kind: str
) -> None:
    folder = tmp_path / "flat"
    extra = "range = [0.0, 255.0]\nmean = [10.0]\nstd = [20.0]"
    weights = write_flat_model(folder, layout=layout, channels=channels, kind=kind, extra=extra)
    session = Surrogate(folder, CPU).session
    seen = views()
    planes = seen if channels == 3 else np.einsum("nchw,c->nhw", seen, GREY)[:, None]
    fed = (planes * 255 - 10) / 20
    fed = fed if layout == "NCHW" else fed.transpose(0, 2, 3, 1)
    scores = fed.reshape(2, -1) @ weights
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    answers = session.run(seen)
    np.testing.assert_allclose(session.probabilities(answers, "toy"), expected, atol=1e-4)


def test_each_channel_has_its_mean_and_deviation() -> None:
    spec = InputSpec(
        tensor="picture", rows=8, columns=8, range=(-1, 1), mean=(0.1, 0.2, 0.3), std=(1, 2, 4)
    )
    fed = model_input(np.full((1, 3, 8, 8), 0.75, np.float32), spec)
    np.testing.assert_allclose(fed[0, :, 0, 0], [0.4, 0.15, 0.05], atol=1e-6)
    assert fed.dtype == np.float32


def test_luminance_weighs_the_colours_as_rec_601() -> None:
    assert luminance(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)).reshape(-1) == (
        pytest.approx([0.299, 0.587, 0.114])
    )


def test_softmax_of_large_logits_does_not_overflow() -> None:
    logits = np.array([[1000.0, 1000.0], [-1000.0, 0.0]])
    np.testing.assert_allclose(softmax(logits), [[0.5, 0.5], [0.0, 1.0]])


def test_unknown_task_is_refused(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    session = Surrogate(tmp_path / "toy", CPU).session
    with pytest.raises(ModelUnusable, match="does not know the task"):
        session.probabilities(session.run(views()), "other")


def test_output_that_the_graph_lacks_is_named(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    path = tmp_path / "toy" / "manifest.toml"
    path.write_text(path.read_text().replace('tensor = "means"', 'tensor = "deep"'))
    with pytest.raises(ModelUnusable, match="no output deep"):
        _ = Surrogate(tmp_path / "toy", CPU).session


def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    manifest = Surrogate(tmp_path / "toy", CPU).manifest
    with pytest.raises(ModelUnusable, match="cannot load"):
        Session(manifest, b"not a graph", CPU)


def test_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runtime(monkeypatch, "CPUExecutionProvider")
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(DeviceUnavailable, match="ONNX Runtime offers none"):
            choose_device(wanted)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runtime(monkeypatch, "CPUExecutionProvider")
    assert choose_device("auto") == Device("CPUExecutionProvider")
    fake_runtime(monkeypatch, "CUDAExecutionProvider", "CPUExecutionProvider")
    assert choose_device("auto") == Device("CUDAExecutionProvider", 0)
    assert choose_device("cuda:2") == Device("CUDAExecutionProvider", 2)
    assert choose_device("cpu") == Device("CPUExecutionProvider")


# --- What strangers' models take and give --------------------------------------------------------


def manifest_of(proto: ModelProto, labels: int = 3, **settings: Any) -> Manifest:
    """A manifest for a stranger's classifier of 16 pixels."""
    graph = proto.graph
    kind = settings.pop("kind", "probabilities")
    names = [f"class {number}" for number in range(labels)]
    given = {"tensor": graph.output[0].name, "kind": kind, "task": "toy", "labels": names}
    taken = {"tensor": "picture", "layout": "NHWC", "rows": 16, "columns": 16, **settings}
    facts = {"name": "stranger", "family": "other", "role": "classifier", "file": "model.onnx"}
    return Manifest.model_validate(
        {**facts, "sha256": "0" * 64, "input": taken, "outputs": [given]}
    )


def pictures(count: int) -> np.ndarray:
    levels = np.random.default_rng(8).integers(0, 256, (count, 3, 16, 16))
    return (levels / 255).astype(np.float32)


def test_integers_go_in_as_integers() -> None:
    plain, whole = stranger(side=16), stranger(side=16, dtype="uint8")
    seen = pictures(3)
    integer = {"dtype": "uint8", "range": (0, 255)}
    session = Session(manifest_of(whole, **integer), whole.SerializeToString(), CPU)
    expected = Session(manifest_of(plain), plain.SerializeToString(), CPU).run(seen)
    given = session.run(seen)
    np.testing.assert_allclose(*given.values(), *expected.values(), atol=1e-5)
    nudged = session.run(seen + np.float32(0.4 / 255))
    np.testing.assert_array_equal(*nudged.values(), *given.values())


def test_half_precision_goes_in_and_comes_out_as_float32() -> None:
    plain, half = stranger(side=16), stranger(side=16, dtype="float16")
    seen = pictures(2)
    manifest = manifest_of(half, dtype="float16")
    session = Session(manifest, half.SerializeToString(), CPU)
    expected = Session(manifest_of(plain), plain.SerializeToString(), CPU).run(seen)
    (given,) = session.run(seen).values()
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, *expected.values(), atol=1e-2)
    assert Differentiable(manifest, half.SerializeToString(), session).manifest is manifest


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch_takes_any_number_of_pictures(batch: int) -> None:
    import torch

    free, fixed = stranger(side=16), stranger(side=16, batch=batch)
    expected = Session(manifest_of(free), free.SerializeToString(), CPU)
    manifest = manifest_of(fixed, batch=batch)
    session = Session(manifest, fixed.SerializeToString(), CPU)
    differentiable = Differentiable(manifest, fixed.SerializeToString(), session)
    for count in (1, 4, 6):
        seen = pictures(count)
        (wanted,) = expected.run(seen).values()
        np.testing.assert_allclose(*session.run(seen).values(), wanted, atol=1e-6)
        with torch.no_grad():
            answers = differentiable(torch.from_numpy(model_input(seen, manifest.input)))
        np.testing.assert_allclose(answers[manifest.answers[0].tensor], wanted, atol=1e-5)


def test_channels_may_be_in_the_other_order() -> None:
    proto = stranger(side=16)
    seen = pictures(2)
    plain = Session(manifest_of(proto), proto.SerializeToString(), CPU)
    other = Session(manifest_of(proto, colours="BGR"), proto.SerializeToString(), CPU)
    np.testing.assert_allclose(
        *other.run(seen[:, ::-1].copy()).values(), *plain.run(seen).values(), atol=1e-6
    )


@pytest.mark.parametrize(("ending", "kind"), [("sigmoid", "probabilities"), ("none", "logits")])
def test_one_score_answers_for_two_classes(ending: str, kind: str) -> None:
    import torch

    bare = stranger(side=16, classes=1, ending="none")
    seen = pictures(5)
    (logits,) = Session(manifest_of(bare, 2), bare.SerializeToString(), CPU).run(seen).values()
    yes = 1 / (1 + np.exp(-logits[:, 0]))
    proto = stranger(side=16, classes=1, ending=ending)
    manifest = manifest_of(proto, 2, kind=kind)
    session = Session(manifest, proto.SerializeToString(), CPU)
    expected = np.stack([1 - yes, yes], axis=1)
    given = session.probabilities(session.run(seen), "toy")
    np.testing.assert_allclose(given, expected, atol=1e-5)
    differentiable = Differentiable(manifest, proto.SerializeToString(), session)
    with torch.no_grad():
        scores = differentiable.scores(
            differentiable(torch.from_numpy(model_input(seen, manifest.input))), "toy"
        )
    np.testing.assert_allclose(scores.softmax(dim=1), expected, atol=1e-5)


def test_scores_behind_a_softmax_are_what_it_takes() -> None:
    """A model that is sure beyond float32 still has a gradient."""
    import torch

    proto = stranger(side=16)
    for one in proto.graph.initializer:
        if one.name == "head":
            one.CopyFrom(numpy_helper.from_array(1e4 * numpy_helper.to_array(one), "head"))
    content = proto.SerializeToString()
    manifest = manifest_of(proto)
    session = Session(manifest, content, CPU)
    differentiable = Differentiable(manifest, content, session)
    fed = torch.from_numpy(model_input(pictures(1), manifest.input)).requires_grad_()
    answers = differentiable(fed)
    sure = answers[manifest.answers[0].tensor]
    assert sure.max() == 1
    (vanished,) = torch.autograd.grad(sure[0, sure[0].argmax()], fed, retain_graph=True)
    (gradient,) = torch.autograd.grad(differentiable.scores(answers, "toy")[0, 0], fed)
    assert not vanished.any()
    assert gradient.any()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_removal_network_gives_pictures_back(layout: str, scale: float) -> None:
    import torch

    proto = remover(layout, side=16, scale=scale)
    manifest = Manifest.model_validate(
        {
            "name": "remover",
            "family": "other",
            "role": "removal",
            "file": "model.onnx",
            "sha256": "0" * 64,
            "input": {"tensor": "picture", "layout": layout, "rows": 16, "columns": 16},
            "outputs": [
                {"kind": "image", "tensor": "image", "range": (0, scale)},
                {"kind": "mask", "tensor": "mask"},
            ],
        }
    )
    seen = pictures(2)
    content = proto.SerializeToString()
    session = Session(manifest, content, CPU)
    images, masks = session.restored(session.run(seen))
    np.testing.assert_allclose(images, seen, atol=1e-5)
    np.testing.assert_allclose(masks, 1 / (1 + np.exp(-seen.mean(axis=1))), atol=1e-5)
    differentiable = Differentiable(manifest, content, session)
    with torch.no_grad():
        answers = differentiable(torch.from_numpy(model_input(seen, manifest.input)))
    again, where = differentiable.restored(answers)
    np.testing.assert_allclose(again, seen, atol=1e-5)
    np.testing.assert_allclose(where, masks, atol=1e-5)


@pytest.mark.parametrize("labels", [1, 3])
def test_segmentation_network_gives_probabilities(labels: int) -> None:
    proto = segmenter(labels, side=16)
    manifest = Manifest.model_validate(
        {
            "name": "segmenter",
            "family": "other",
            "role": "segmentation",
            "file": "model.onnx",
            "sha256": "0" * 64,
            "input": {"tensor": "picture", "rows": 16, "columns": 16},
            "outputs": [
                {"kind": "mask", "tensor": "where", "values": "logits", "labels": ["a", "b", "c"]}
            ],
        }
    )
    seen = pictures(2)
    session = Session(manifest, proto.SerializeToString(), CPU)
    answers = session.run(seen)
    given = session.masks(answers)
    exponents = np.exp(answers["where"])
    one = exponents / (1 + exponents)
    expected = one if labels == 1 else exponents / exponents.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, atol=1e-5)


# --- Gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [0, 1])
def test_grad_cam_is_activation_times_mean_gradient(tmp_path: Path, label: int) -> None:
    write_convolutional_model(tmp_path / "toy")
    view = views(1)[0]
    activation = np.maximum(np.einsum("oc,chw->ohw", CONVOLUTION, view), 0)
    expected = activation * (HEAD[label] / SIDE**2).reshape(4, 1, 1)
    weighted = Surrogate(tmp_path / "toy", CPU).differentiable.cam(view, "toy", label)
    np.testing.assert_allclose(weighted, expected, atol=1e-6)


def test_grad_cam_without_a_task_follows_the_features(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    view = views(1)[0]
    activation = np.maximum(np.einsum("oc,chw->ohw", CONVOLUTION, view), 0)
    means = activation.mean(axis=(1, 2))
    expected = activation * (2 * means / SIDE**2).reshape(4, 1, 1)
    weighted = Surrogate(tmp_path / "toy", CPU).differentiable.cam(view, None, 0)
    np.testing.assert_allclose(weighted, expected, atol=1e-6)


def test_grad_cam_needs_a_tensor_to_look_at(tmp_path: Path) -> None:
    write_flat_model(tmp_path / "flat", layout="NCHW", channels=3, kind="logits")
    with pytest.raises(ModelUnusable, match="no tensor for Grad-CAM"):
        Surrogate(tmp_path / "flat", CPU).differentiable.cam(views(1)[0], "toy", 0)


def test_graph_that_answers_differently_with_gradients_is_refused(tmp_path: Path) -> None:
    write_convolutional_model(tmp_path / "toy")
    write_convolutional_model(tmp_path / "other", bias=3.0)
    other = Surrogate(tmp_path / "other", CPU)
    one = Surrogate(tmp_path / "toy", CPU)
    one.session = other.session
    with pytest.raises(ModelUnusable, match=r"differs from ONNX Runtime's"):
        _ = one.differentiable


def test_shipped_model_answers_the_same_with_and_without_gradients() -> None:
    import torch

    surrogate = Surrogate(list_models()[0], CPU)
    spec = surrogate.manifest.input
    seen = np.random.default_rng(4).random((1, 3, spec.rows, spec.columns), np.float32)
    queried = surrogate.session.run(seen)
    with torch.no_grad():
        differentiable = surrogate.differentiable(torch.from_numpy(model_input(seen, spec)))
    for output in surrogate.manifest.outputs:
        np.testing.assert_allclose(
            differentiable[output.tensor].numpy(), queried[output.tensor], rtol=1e-3, atol=1e-3
        )
