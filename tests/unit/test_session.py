"""Models answer what their graphs say, in any layout, and their gradients are those of Eq. 7."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import (
    CONVOLUTION,
    HEAD,
    SIDE,
    write_convolutional_model,
    write_flat_model,
)

from miad_cli.errors import DeviceUnavailable, ModelUnusable
from miad_cli.models import session as room
from miad_cli.models.bank import Surrogate, list_models
from miad_cli.models.manifest import InputSpec
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
