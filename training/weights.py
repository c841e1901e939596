"""Weights of a model that ships, to go on from: the inverse of what ``export`` does to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.architectures import ConvNorm, restore_norms

HALF = ".half"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a ``model.onnx`` that ``export`` wrote, float32, by their names in training.

    The exporter keeps the names of convolutions; matrices of linear layers it may transpose and
    rename, so these are found by the bias that is added to their product.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    stored = {
        one.name.removesuffix(HALF): numpy_helper.to_array(one).astype(np.float32)
        for one in graph.initializer
        if one.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    }
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, reversed(node.input)):
            maker = makers.get(product)
            if maker is None or maker.op_type != "MatMul" or not bias.endswith(".bias"):
                continue
            if bias in stored and maker.input[1] in stored:
                stored[f"{bias.removesuffix('bias')}weight"] = stored[maker.input[1]].T.copy()
    return {name.removeprefix("network."): torch.from_numpy(v) for name, v in stored.items()}


def load_shipped(network: nn.Module, weights: Mapping[str, Tensor], probe: Tensor) -> list[str]:
    """Go on from ``read_weights``, in place; returns the parameters that the file does not hold.

    The norms are made anew on ``probe`` ((N, 3, rows, columns) float32, as the network takes it),
    so that the function stays the same: see ``architectures.restore_norms``.

    Raises:
        ValueError: the file is of another network.
    """
    layers = {name: one for name, one in network.named_modules() if isinstance(one, ConvNorm)}
    missing, matched = [], []
    with torch.no_grad():
        for name, layer in layers.items():
            kernel = weights.get(f"{name}.conv.weight")
            if kernel is None:
                missing.append(name)
                continue
            assert isinstance(layer.norm, nn.BatchNorm2d)
            _copy(layer.conv.weight, kernel, name)
            _copy(layer.norm.bias, weights[f"{name}.conv.bias"], name)
            matched.append(layer)
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[0].rpartition(".")[0] in layers:
                continue
            if name in weights:
                _copy(parameter, weights[name], name)
            else:
                missing.append(name)
        if not matched:
            raise ValueError("the initial weights are of another network")
        restore_norms(network, matched, probe)
    return missing


def _copy(parameter: Tensor, value: Tensor, name: str) -> None:
    if parameter.shape != value.shape:
        raise ValueError(f"{name} is {tuple(value.shape)}, not {tuple(parameter.shape)}")
    parameter.copy_(value)
