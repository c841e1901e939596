"""What is made faster in a converted graph, and what must stay as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx2fx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from miad_cli.models import gradients
from miad_cli.models.gradients import Differentiable, _bounded
from miad_cli.models.graph import unpacked
from miad_cli.models.manifest import load_manifest
from miad_cli.models.session import Device, Session, model_input
from miad_cli.shipped import models_directory


def clipped(low: float, high: float) -> Any:
    """y = clip(x, low, high), converted."""
    bounds = [
        numpy_helper.from_array(np.float32(value), name)
        for name, value in (("low", low), ("high", high))
    ]
    graph = helper.make_graph(
        [helper.make_node("Clip", ["x", "low", "high"], ["y"])],
        "clipping",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 5])],
        bounds,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return onnx2fx.convert(model).eval()


def through(module: Any, values: list[float]) -> tuple[list[float], list[float]]:
    x = torch.tensor(values).view(1, 1, 1, -1).requires_grad_()
    y = module(x)
    y = y[0] if isinstance(y, tuple | list) else y
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.flatten().tolist(), slope.flatten().tolist()


def targets(module: Any) -> list[Any]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def test_relu6_becomes_torchs_own_with_the_same_values_and_slopes() -> None:
    values = [-2.0, 0.5, 3.0, 5.5, 9.0]
    expected = through(clipped(0.0, 6.0), values)
    module = _bounded(clipped(0.0, 6.0))
    assert torch.nn.functional.relu6 in targets(module)
    assert torch.clamp not in targets(module)
    assert through(module, values) == expected


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 6.0), (0.0, 255.0)])
def test_other_clips_keep_their_slope_at_the_bounds(low: float, high: float) -> None:
    """A model that clips its input must not be blind to black and white."""
    module = _bounded(clipped(low, high))
    assert through(module, [low, high, low - 1, high + 1, (low + high) / 2])[1] == [1, 1, 0, 0, 1]


def nodes_of(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_weights_that_are_stored_as_float16_are_unpacked_once() -> None:
    half, whole = np.array([1.5, -2.0], np.float16), np.array([3.0, 4.0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["half"], ["weights"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "weights"], ["scaled"]),
            helper.make_node("Cast", ["whole"], ["lower"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["scaled"], ["y"], to=TensorProto.FLOAT),
        ],
        "packed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(half, "half"), numpy_helper.from_array(whole, "whole")],
    )
    proto = unpacked(helper.make_model(graph, ir_version=9))
    assert nodes_of(proto) == ["Mul", "Cast", "Cast"]  # what is no constant of float16 stays
    weights = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    assert weights["weights"].dtype == np.float32
    assert weights["weights"].tolist() == half.tolist()


def resnet() -> Differentiable:
    folder = models_directory() / "resnet"
    manifest, content = load_manifest(folder), Path(folder / "model.onnx").read_bytes()
    return Differentiable(manifest, content, Session(manifest, content, Device()))


def margin_and_slope(model: Differentiable, coarse: bool) -> tuple[Any, Any]:
    views = np.random.default_rng(5).random((1, 3, 224, 224), np.float32)
    fed = torch.from_numpy(model_input(views, model.manifest.input)).requires_grad_()
    scores = model.scores(model(fed, coarse), "fundus")
    (slope,) = torch.autograd.grad(scores[0, 0] - scores[0, 1], fed)
    return scores.detach(), slope


def test_coarse_answers_lead_nearly_where_exact_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, slope = margin_and_slope(resnet(), coarse=False)
    monkeypatch.setattr(gradients, "knows_bfloat16", lambda: True)  # slow, where it is emulated
    nearly, nearby = margin_and_slope(resnet(), coarse=True)
    assert not torch.equal(exact, nearly)
    torch.testing.assert_close(nearly, exact, atol=0.1 * float(exact.abs().max()), rtol=0)
    along = torch.nn.functional.cosine_similarity(slope.flatten(), nearby.flatten(), dim=0)
    assert along > 0.95


def test_where_the_cpu_knows_no_bfloat16_coarse_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "knows_bfloat16", lambda: False)
    model = resnet()
    both = [margin_and_slope(model, coarse)[0] for coarse in (False, True)]
    assert torch.equal(*both)


class Frail(torch.nn.Module):
    """A converted graph that does something else where it is to compute in bfloat16."""

    def __init__(self, module: Any, otherwise: Callable[[Any], Any]) -> None:
        super().__init__()
        self.module, self.otherwise = module, otherwise
        self.asked: list[bool] = []

    def forward(self, fed: Any) -> Any:
        self.asked.append(torch.is_autocast_enabled("cpu"))
        answers = self.module(fed)
        return self.otherwise(answers) if self.asked[-1] else answers


def refuse(_: Any) -> Any:
    raise RuntimeError("expected m1 and m2 to have the same dtype")


def overflow(answers: Any) -> Any:
    return [one * torch.inf for one in answers]


@pytest.mark.parametrize("otherwise", [refuse, overflow])
def test_a_graph_that_bfloat16_breaks_answers_exactly(
    otherwise: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "knows_bfloat16", lambda: True)
    monkeypatch.setattr(gradients, "_bounded", lambda module: Frail(_bounded(module), otherwise))
    model = resnet()
    assert model._module.asked == [False, True]  # compared with ONNX Runtime, then tried
    exact, slope = margin_and_slope(model, coarse=False)
    nearly, nearby = margin_and_slope(model, coarse=True)
    assert torch.equal(exact, nearly)
    assert torch.equal(slope, nearby)
    assert not any(model._module.asked[2:])  # it is not tried again


def test_constants_of_any_rank_leave_a_graph_its_gradients() -> None:
    folder = models_directory() / "resnet"
    manifest, proto = load_manifest(folder), onnx.load(folder / "model.onnx")
    (task,) = [one for one in proto.graph.output if one.name == "fundus"]
    proto.graph.initializer.append(
        numpy_helper.from_array(np.zeros((1, 1, 1, 1, 2), np.float32), "deep")
    )
    for node in proto.graph.node:
        node.output[:] = ["bare" if one == task.name else one for one in node.output]
    axes = numpy_helper.from_array(np.array([0, 1, 2, 3, 4], np.int64), "axes")
    proto.graph.initializer.append(axes)
    proto.graph.node.extend(
        [
            helper.make_node("ReduceSum", ["deep", "axes"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["bare", "nothing"], [task.name]),
        ]
    )
    content = proto.SerializeToString()
    model = Differentiable(manifest, content, Session(manifest, content, Device()))
    assert margin_and_slope(model, coarse=False)[1].any()
