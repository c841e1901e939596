"""Differentiate a model: the ONNX graph as a torch module, with a tap on a named tensor.

ONNX Runtime's inference build gives no gradients. The graph is converted by onnx2fx, behind this
one class, and checked against ONNX Runtime on a probe before anything trusts it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import ModelUnusable
from miad_cli.models.manifest import Manifest
from miad_cli.models.session import Session, model_input

Float = NDArray[np.float32]

TOLERANCE = 1e-2
"""Largest difference of an output from ONNX Runtime's, relative to the output's own spread."""


class Differentiable:
    """A model whose outputs can be differentiated with torch.

    Raises ModelUnusable where the graph cannot be converted or answers differently from ONNX
    Runtime; the model still serves for queries then.
    """

    def __init__(self, manifest: Manifest, content: bytes, session: Session) -> None:
        import onnx
        import onnx2fx

        self.manifest = manifest
        proto = onnx.load_from_string(content)
        if manifest.cam is not None:
            _expose(proto, manifest.cam.tensor)
            self.cam_shift = _looks_beside(proto, manifest.cam.tensor)
        self._names = [output.name for output in proto.graph.output]
        try:
            self._module = onnx2fx.convert(proto).eval()
        except Exception as error:  # the converter raises whatever an operator's handler raises
            raise ModelUnusable(f"{manifest.name}: no gradients: {error}") from error
        for parameter in self._module.parameters():
            parameter.requires_grad_(False)
        self._check(session)

    def _check(self, session: Session) -> None:
        spec = self.manifest.input
        probe = np.random.default_rng(0).random((1, 3, spec.rows, spec.columns), np.float32)
        expected = session.run(probe)
        import torch

        with torch.no_grad():
            answers = self(torch.from_numpy(model_input(probe, spec)))
        for name, value in expected.items():
            spread = float(np.abs(value).max()) + 1e-6
            if float(np.abs(answers[name].numpy() - value).max()) > TOLERANCE * spread:
                raise ModelUnusable(
                    f"{self.manifest.name}: no gradients: {name} differs from ONNX Runtime's"
                )

    def __call__(self, fed: Any) -> dict[str, Any]:
        """Every output by tensor name for a model input tensor (as `model_input` makes it)."""
        answers = self._module(fed)
        if not isinstance(answers, tuple | list):
            answers = (answers,)
        return dict(zip(self._names, answers, strict=True))

    def cam(self, view: Float, task: str | None, label: int) -> Float:
        """Grad-CAM parts for one view (3, rows, columns) in 0..1 (MIAD-MARK Eq. 7).

        Returns (channels, h, w), float32: each activation map times its weight, the spatial mean
        of the gradient of the label's logit. With no task the gradient is that of the squared
        norm of the features.

        Raises:
            ModelUnusable: the manifest names no tensor for Grad-CAM.
        """
        import torch

        if self.manifest.cam is None:
            raise ModelUnusable(f"{self.manifest.name} names no tensor for Grad-CAM")
        fed = torch.from_numpy(model_input(view[None], self.manifest.input)).requires_grad_()
        answers = self(fed)
        tapped = answers[self.manifest.cam.tensor]
        (gradient,) = torch.autograd.grad(self._target(answers, task, label), tapped)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        result: Float = (weights * tapped)[0].detach().numpy()
        return result

    def _target(self, answers: dict[str, Any], task: str | None, label: int) -> Any:
        if task is None:
            if self.manifest.features is None:
                raise ModelUnusable(f"{self.manifest.name} names no feature tensor")
            return answers[self.manifest.features.tensor].square().sum()
        output = self.manifest.output_for(task)
        if output is None:
            raise ModelUnusable(f"{self.manifest.name} does not know the task {task}")
        return answers[output.tensor].reshape(-1)[label]


def _looks_beside(proto: Any, tensor: str) -> tuple[float, float]:
    """How far from its nominal place a cell of `tensor` looks, in input pixels (vertical,
    horizontal).

    A cell of a map with stride s is nominally centred in its s x s pixels. A convolution with
    symmetric padding looks up to (s - 1) / 2 pixels further up and left: enough to put a box
    beside its lesion. Centre and stride are followed from the tensor back to the input, along
    first operands, through every node that has a kernel.
    """
    makers = {name: node for node in proto.graph.node for name in node.output}
    kernels = []
    while tensor in makers:
        node = makers[tensor]
        if node.op_type in ("Conv", "MaxPool", "AveragePool"):
            kernels.append(_kernel(proto, node))
        if not node.input:
            break
        tensor = node.input[0]
    shifts = []
    for axis in (0, 1):
        centre, stride = 0.0, 1
        for size, step, padding in reversed([kernel[axis] for kernel in kernels]):
            centre += ((size - 1) / 2 - padding) * stride
            stride *= step
        shifts.append(centre - (stride - 1) / 2)
    return shifts[0], shifts[1]


def _kernel(proto: Any, node: Any) -> list[tuple[int, int, int]]:
    """(size, stride, padding in front) of a node, for rows and columns."""
    import onnx

    given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    size = given.get("kernel_shape") or _weight_size(proto, node)
    strides = given.get("strides", [1, 1])
    dilations = given.get("dilations", [1, 1])
    spans = [(n - 1) * d + 1 for n, d in zip(size, dilations, strict=True)]
    pads = given.get("pads", [0, 0, 0, 0])[:2]
    if given.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = [max(span - step, 0) // 2 for span, step in zip(spans, strides, strict=True)]
    return list(zip(spans, strides, pads, strict=True))


def _weight_size(proto: Any, node: Any) -> list[int]:
    weights = {one.name: list(one.dims[2:]) for one in proto.graph.initializer}
    return weights.get(node.input[1], [1, 1])


def _expose(proto: Any, tensor: str) -> None:
    """Make an inner tensor a graph output, so that the converted graph hands it out."""
    import onnx

    if tensor not in {output.name for output in proto.graph.output}:
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
