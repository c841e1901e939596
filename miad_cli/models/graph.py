"""What an ONNX file says of itself, before anything runs it.

Nothing here loads a model into an engine: a file that keeps weights elsewhere, takes several
tensors or is no ONNX at all is refused before ONNX Runtime sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from miad_cli.errors import ModelUnusable

DTYPES = {1: "float32", 10: "float16", 2: "uint8"}
"""ONNX element types that a picture can be handed over in."""
FLOATS = (1, 10, 11, 16)

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_PASSING = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operators that hand values on as they are."""


@dataclass(frozen=True)
class Scaling:
    """What a graph does to its input first: `(v - mean) / std`, each one value or one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor at the graph's edge; None in `shape` is a size that is not fixed."""

    name: str
    element: int
    shape: tuple[int | None, ...] | None


class Graph:
    """A parsed ONNX file.

    Raises ModelUnusable where it is none, keeps data in other files, uses operators of nobody
    we know, or takes something else than one picture.
    """

    def __init__(self, content: bytes) -> None:
        import onnx

        try:
            self.proto = onnx.load_from_string(content)
        except Exception:  # protobuf raises an error of its own, which is not typed
            raise ModelUnusable("it is not an ONNX file") from None
        graph = self.proto.graph
        if not (self.proto.ir_version and graph.node and graph.output):
            raise ModelUnusable("it is not an ONNX file")
        parts = (graph, *self.proto.functions)
        if any(_is_external(one) for part in parts for one in _tensors(part)):
            raise ModelUnusable(
                "it keeps its weights in another file",
                hint="Save it as one file: onnx.save(onnx.load(FILE), NEW).",
            )
        foreign = sorted({_full_name(n) for part in parts for n in _nodes(part) if _is_foreign(n)})
        own = {f"{one.domain}.{one.name}" for one in self.proto.functions}
        if foreign := [name for name in foreign if name not in own]:
            raise ModelUnusable(f"it needs operators that ONNX has not: {', '.join(foreign)}")
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._constants = {one.name: one for one in graph.initializer}
        self.input = self._only_input()
        self.outputs = tuple(_edge(one) for one in graph.output)

    def _only_input(self) -> Tensor:
        taken = [one for one in self.proto.graph.input if one.name not in self._constants]
        if len(taken) != 1:
            names = ", ".join(one.name for one in taken) or "none"
            raise ModelUnusable(f"it takes {len(taken)} inputs ({names}); it has to take a picture")
        tensor = _edge(taken[0])
        if tensor.element not in DTYPES:
            raise ModelUnusable(
                f"its input {tensor.name} is {_element_name(tensor.element)}; "
                "pictures are float32, float16 or uint8"
            )
        if tensor.shape is not None and len(tensor.shape) != 4:
            raise ModelUnusable(
                f"its input {tensor.name} has {len(tensor.shape)} axes; "
                "pictures have 4: number, channels, rows, columns"
            )
        return tensor

    def answered_by(self, name: str) -> Any:
        """The node that makes a tensor's values, past those that only hand them on; or None."""
        node = self._makers.get(name)
        while node is not None and node.op_type in _PASSING:
            node = self._makers.get(node.input[0])
        return node

    def before(self, output: str) -> Iterator[str]:
        """The tensors that lead to `output`, from there back to the input, each once."""
        waiting, seen = [output], {output}
        while waiting:
            node = self._makers.get(waiting.pop(0))
            for name in node.input if node is not None else ():
                if name in self._makers and name not in seen:
                    seen.add(name)
                    waiting.append(name)
                    yield name

    def maker_of(self, tensor: str) -> str:
        """The operator that makes a tensor; empty for the input and constants."""
        node = self._makers.get(tensor)
        return "" if node is None else str(node.op_type)

    def scaling(self) -> Scaling | None:
        """What the graph does to its input's values before anything else; None where nothing.

        Followed are multiplication, division, addition and subtraction with constants, up to the
        first operator that is neither of these nor hands values on.
        """
        factor: Any = np.float64(1.0)
        offset: Any = np.float64(0.0)
        name, changed = self.input.name, False
        while (node := self._only_user(name)) is not None:
            if node.op_type in _PASSING:
                name = node.output[0]
                continue
            value = self._operand(node, name)
            if value is None:
                break
            if node.op_type == "Mul":
                factor, offset = factor * value, offset * value
            elif node.op_type == "Div" and node.input[0] == name:
                factor, offset = factor / value, offset / value
            elif node.op_type == "Add":
                offset = offset + value
            elif node.op_type == "Sub" and node.input[0] == name:
                offset = offset - value
            else:
                break
            name, changed = node.output[0], True
        if not changed or np.any(factor == 0):
            return None
        mean, std = np.atleast_1d(-offset / factor), np.atleast_1d(1 / factor)
        return Scaling(tuple(mean.tolist()), tuple(std.tolist()))

    def _only_user(self, name: str) -> Any:
        users = [node for node in self.proto.graph.node if name in node.input]
        return users[0] if len(users) == 1 else None

    def _operand(self, node: Any, name: str) -> Any:
        """The other operand where it is a constant of one value, or of three; else None."""
        if len(node.input) != 2:
            return None
        other = node.input[1] if node.input[0] == name else node.input[0]
        value = self._constant(other)
        if value is None or value.size not in (1, 3):
            return None
        flat = value.astype(np.float64).reshape(-1)
        return flat[0] if flat.size == 1 else flat

    def _constant(self, name: str) -> Any:
        from onnx import numpy_helper

        if name in self._constants:
            return numpy_helper.to_array(self._constants[name])
        node = self._makers.get(name)
        if node is not None and node.op_type in ("Cast", "Identity"):
            return self._constant(node.input[0])
        if node is not None and node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    return numpy_helper.to_array(attribute.t)
        return None


def exposed(proto: Any, *tensors: str) -> Any:
    """`proto` with inner tensors as outputs of the graph too, so that an engine hands them out."""
    import onnx

    there = {output.name for output in proto.graph.output}
    for tensor in dict.fromkeys(tensors):
        if tensor not in there:
            proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return proto


def unpacked(proto: Any) -> Any:
    """`proto` with constants that a Cast makes float32 of stored as float32, so that an engine
    which does not fold them need not convert the weights each time it runs."""
    from onnx import TensorProto, numpy_helper

    graph = proto.graph
    packed = {one.name: one for one in graph.initializer if one.data_type == TensorProto.FLOAT16}
    kept = []
    for node in graph.node:
        wanted = {one.name: one.i for one in node.attribute}.get("to")
        if node.op_type != "Cast" or wanted != TensorProto.FLOAT or node.input[0] not in packed:
            kept.append(node)
            continue
        values = numpy_helper.to_array(packed[node.input[0]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    return proto


def _edge(info: Any) -> Tensor:
    kind = info.type.tensor_type
    shape = None
    if kind.HasField("shape"):
        shape = tuple(
            axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
            for axis in kind.shape.dim
        )
    return Tensor(info.name, int(kind.elem_type), shape)


def _element_name(element: int) -> str:
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(element)).lower()
    except ValueError:
        return "no tensor"


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of graphs inside nodes too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, attribute.g):
                yield from _nodes(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every constant of a graph or function, those of graphs inside nodes too."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*attribute.tensors, attribute.t)
            for inner in (*attribute.graphs, attribute.g):
                yield from _tensors(inner)


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == 1 or tensor.external_data)


def _full_name(node: Any) -> str:
    return f"{node.domain}.{node.op_type}"


def _is_foreign(node: Any) -> bool:
    return node.domain not in _DOMAINS
