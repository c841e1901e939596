"""What is made faster in a converted graph, and what must stay as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx2fx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from miad_cli.models.gradients import _bounded


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
