"""Third-party models of a few kilobytes, as other people's exporters lay them out.

Each is a small convolutional network with fixed weights: it answers differently for different
pictures, and what it wants and gives is known by construction.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
}


def stranger(
    *,
    layout: str = "NHWC",
    side: int | str = 150,
    channels: int | str = 3,
    planes: int = 3,
    classes: int = 3,
    ending: str = "softmax",
    dtype: str = "float32",
    batch: int | str = "n",
    scale: float | None = None,
    breaking: str = "",
) -> ModelProto:
    """A classifier. `side`, `channels` and `batch` may be names: sizes that are not fixed;
    `planes` is how many channels its weights are for. `scale` multiplies the input first.
    `breaking` puts in what takes its gradients away: `ml` (an operator of classical machine
    learning that cannot be converted) or `round` (a step function).
    """
    generator = np.random.default_rng(5)
    inner = np.float16 if dtype == "float16" else np.float32
    divisor = 255.0 if scale or dtype == "uint8" else 1.0
    weights: dict[str, np.ndarray] = {
        "k1": generator.normal(0, 0.4, (6, planes, 3, 3)).astype(inner),
        "k2": generator.normal(0, 0.4, (8, 6, 3, 3)).astype(inner),
        "head": generator.normal(0, 2, (8, classes)).astype(inner),
        "bias": generator.normal(0, 0.1, classes).astype(inner),
    }
    nodes: list[NodeProto] = []
    now = "picture"

    def step(kind: str, *others: str, **attributes: Any) -> None:
        nonlocal now
        result = f"t{len(nodes)}_{kind.lower()}"
        nodes.append(helper.make_node(kind, [now, *others], [result], **attributes))
        now = result

    if dtype == "uint8":
        step("Cast", to=TensorProto.FLOAT)
    if divisor != 1.0:
        weights["scale"] = np.array(scale or 1 / divisor, inner)
        step("Mul", "scale")
    if layout == "NHWC":
        step("Transpose", perm=[0, 3, 1, 2])
    step("Conv", "k1", strides=[2, 2], pads=[1, 1, 1, 1])
    step("Relu")
    step("Conv", "k2", strides=[2, 2], pads=[1, 1, 1, 1])
    step("Relu")
    step("GlobalAveragePool")
    step("Flatten")
    if breaking == "ml":
        step("Scaler", domain="ai.onnx.ml", offset=[0.0] * 8, scale=[1.0] * 8)
    if breaking == "round":
        weights["many"] = np.array(1000.0, inner)
        step("Mul", "many")
        step("Round")
        step("Div", "many")
    step("Gemm", "head", "bias")
    if ending in ("softmax", "sigmoid"):
        step(ending.capitalize())
    if ending == "argmax":
        step("ArgMax", axis=1)
    shape = [batch, channels, side, side] if layout == "NCHW" else [batch, side, side, channels]
    answers = TensorProto.INT64 if ending == "argmax" else ELEMENTS[str(np.dtype(inner))]
    width = 1 if ending == "argmax" else classes
    return model(
        nodes,
        [helper.make_tensor_value_info("picture", ELEMENTS[dtype], shape)],
        [helper.make_tensor_value_info(now, answers, [batch, width])],
        weights,
    )


def remover(layout: str = "NCHW", side: int = 32, scale: float = 1.0) -> ModelProto:
    """Gives the picture back as it is, times `scale`, and a mask of what is bright."""
    weights = {
        "scale": np.array(scale, np.float32),
        "mean": np.full((1, 3, 1, 1), 1 / 3, np.float32),
    }
    nodes = [helper.make_node("Mul", ["picture", "scale"], ["image"])]
    first = "picture"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [first], ["planes"], perm=[0, 3, 1, 2]))
        first = "planes"
    nodes.append(helper.make_node("Conv", [first, "mean"], ["grey"]))
    nodes.append(helper.make_node("Sigmoid", ["grey"], ["lit"]))
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["lit"], ["mask"], perm=[0, 2, 3, 1]))
    else:
        nodes.append(helper.make_node("Identity", ["lit"], ["mask"]))

    def shape(channels: int) -> list[Any]:
        square = [side, side]
        return ["n", channels, *square] if layout == "NCHW" else ["n", *square, channels]

    return model(
        nodes,
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape(3))],
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, shape(3)),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, shape(1)),
        ],
        weights,
    )


def write_remover(
    folder: Path, scale: float, side: int = 32, layout: str = "NCHW", fit: str = "pad"
) -> Path:
    """`remover` with its manifest, in a folder that bears its name."""
    return write_described(
        folder,
        remover(layout, side, scale),
        "removal",
        f"""[input]
tensor = "picture"
layout = "{layout}"
rows = {side}
columns = {side}
fit = "{fit}"

[[outputs]]
kind = "image"
tensor = "image"

[[outputs]]
kind = "mask"
tensor = "mask"
""",
    )


def write_described(folder: Path, proto: ModelProto, role: str, described: str) -> Path:
    """A model in a folder that bears its name, with a manifest that ends as told."""
    content = proto.SerializeToString()
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    head = {
        "name": folder.name, "family": "toy", "role": role, "file": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    lines = [f'{key} = "{value}"' for key, value in head.items()]
    (folder / "manifest.toml").write_text("\n".join(lines) + f"\n\n{described}", encoding="utf-8")
    return folder


def segmenter(labels: int, side: int = 32, stride: int = 1) -> ModelProto:
    """Logits for each pixel: `labels` channels, `stride` times smaller than the picture."""
    kernel = np.random.default_rng(6).normal(0, 3, (labels, 3, 1, 1)).astype(np.float32)
    small = side // stride
    return model(
        [helper.make_node("Conv", ["picture", "kernel"], ["where"], strides=[stride, stride])],
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("where", TensorProto.FLOAT, ["n", labels, small, small])],
        {"kernel": kernel},
    )


def model(
    nodes: list[NodeProto], taken: list[Any], given: list[Any], weights: dict[str, np.ndarray]
) -> ModelProto:
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "stranger", taken, given, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
