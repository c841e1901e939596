"""Differentiate a model: the ONNX graph as a torch module, with a tap on a named tensor.

ONNX Runtime's inference build gives no gradients. The graph is converted by onnx2fx, behind this
one class, and checked against ONNX Runtime on a probe before anything trusts it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import ModelUnusable
from miad_cli.models.graph import Graph, exposed, unpacked
from miad_cli.models.manifest import Manifest
from miad_cli.models.session import Session, model_input, planes_of, reason_of

Float = NDArray[np.float32]

TOLERANCE = 1e-2
"""Largest difference of an output from ONNX Runtime's, relative to the output's own spread."""


class Differentiable:
    """A model whose outputs can be differentiated with torch, on the `device` (in torch's words)
    that its session runs on.

    Raises ModelUnusable where the graph cannot be converted or answers differently from ONNX
    Runtime; the model still serves for queries then.
    """

    def __init__(self, manifest: Manifest, content: bytes, session: Session) -> None:
        import onnx2fx
        import torch

        if session.threads:
            torch.set_num_threads(session.threads)
        self.manifest = manifest
        self._session = session
        self.device = session.device
        graph = Graph(content)
        if manifest.cam is not None:
            exposed(graph.proto, manifest.cam.tensor)
            self.cam_shift = _looks_beside(graph.proto, manifest.cam.tensor)
        self._logits = _logits_behind(graph, manifest)
        exposed(graph.proto, *self._logits.values())
        self._names = [output.name for output in graph.proto.graph.output]
        try:
            module = _bounded(onnx2fx.convert(unpacked(graph.proto)).eval())
            self._module = module.to(self.device)
            for weights in (*module.parameters(), *module.buffers()):
                if weights.dim() == 4:  # the order that convolutions on a CPU are fastest with
                    weights.data = weights.data.contiguous(memory_format=torch.channels_last)
            for parameter in self._module.parameters():
                parameter.requires_grad_(False)
            differing = self._differing(session)
        except Exception as error:  # the converter raises whatever an operator's handler raises
            raise ModelUnusable(f"{manifest.name}: no gradients: {reason_of(error)}") from error
        if differing:
            raise ModelUnusable(
                f"{manifest.name}: no gradients: {differing} differs from ONNX Runtime's"
            )
        self._coarse = self._bears_bfloat16()

    def _differing(self, session: Session) -> str:
        """The first output that is not what ONNX Runtime gives for a probe, or nothing."""
        import torch

        spec = self.manifest.input
        levels = np.random.default_rng(0).integers(0, 256, (1, 3, spec.rows, spec.columns))
        # For integer inputs a grey of whole steps: rounding must make no difference.
        probe = np.repeat(levels[:, :1], 3, axis=1) if spec.dtype == "uint8" else levels
        views = (probe / 255).astype(np.float32)
        expected = session.run(views)
        with torch.no_grad():
            answers = self(torch.from_numpy(model_input(views, spec)))
        for name, value in expected.items():
            spread = float(np.abs(value).max()) + 1e-6
            given = answers[name].float().cpu().numpy()
            if not float(np.abs(given - value).max()) <= TOLERANCE * spread:
                return name
        return ""

    def __call__(self, fed: Any, coarse: bool = False) -> dict[str, Any]:
        """Every output by tensor name for a model input tensor (as `model_input` makes it), on this
        model's device wherever the input is.

        coarse: in bfloat16 where the CPU multiplies in it, at about half the cost. Good enough for
        a direction to go in; what comes of it is for ONNX Runtime to judge.
        """
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=coarse and self._coarse):
            return self._answers(fed)

    def _bears_bfloat16(self) -> bool:
        """Whether bfloat16 pays, and leads forth and back through this graph."""
        import torch

        if self.device != "cpu" or not knows_bfloat16():
            return False
        spec = self.manifest.input
        grey = np.full((1, 3, spec.rows, spec.columns), 0.5, np.float32)
        fed = torch.from_numpy(model_input(grey, spec)).requires_grad_()
        try:
            with torch.autocast("cpu", torch.bfloat16):
                answers = self._answers(fed)
            total = torch.stack([one.float().square().mean() for one in answers.values()]).sum()
            (slope,) = torch.autograd.grad(total, fed)
        except Exception:  # the converter raises whatever an operator's handler raises
            return False
        return bool(total.isfinite() and slope.isfinite().all())

    def _answers(self, fed: Any) -> dict[str, Any]:
        import torch

        spec = self.manifest.input
        fed = fed.to(self.device)
        fed = fed.half() if spec.dtype == "float16" else fed
        size = spec.batch or len(fed)
        parts = []
        for part in fed.split(size):
            missing = size - len(part)
            whole = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
            answers = self._module(whole)
            answers = answers if isinstance(answers, tuple | list) else (answers,)
            # Where nothing is missing they stay the very tensors that the graph computed with.
            parts.append([one[:-missing] for one in answers] if missing else list(answers))
        joined = (
            parts[0] if len(parts) == 1 else [torch.cat(one) for one in zip(*parts, strict=True)]
        )
        return dict(zip(self._names, joined, strict=True))

    def scores(self, answers: dict[str, Any], task: str) -> Any:
        """Logits (N, classes) for a task out of what a call gave, to be differentiated.

        Where a model gives probabilities they are the values before its softmax or sigmoid, whose
        gradient does not vanish where the model is sure; failing that their logarithms.

        Raises:
            ModelUnusable: the model does not know the task.
        """
        import torch

        order = list(self._session.columns(task))
        output = self.manifest.output_for(task)
        assert output is not None  # noqa: S101 - `columns` refused it
        tensor = self._logits.get(task, output.tensor)
        scores = answers[tensor].reshape(len(answers[tensor]), -1).float()
        bare = output.kind == "logits" or task in self._logits
        if not bare:
            scores = torch.cat([1 - scores, scores], dim=1) if scores.shape[1] == 1 else scores
            scores = scores.clamp_min(1e-12).log()
        elif scores.shape[1] == 1:
            scores = torch.cat([-scores / 2, scores / 2], dim=1)
        return scores[:, order]

    def restored(self, answers: dict[str, Any]) -> tuple[Any, Any]:
        """What a removal network gave: pictures (N, 3, rows, columns) in 0..1, not clipped, and
        mask values (N, rows, columns) as they come."""
        manifest = self.manifest
        low, high = manifest.image.range
        pictures = (planes_of(answers[manifest.image.tensor], manifest.input) - low) / (high - low)
        pictures = pictures.expand(-1, 3, -1, -1)
        pictures = pictures.flip(1) if manifest.input.colours == "BGR" else pictures
        return pictures, planes_of(answers[manifest.mask.tensor], manifest.input)[:, -1]

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
        spec = self.manifest.input
        views = np.repeat(view[None], spec.batch or 1, axis=0)  # no padding: it would cut the tap
        fed = torch.from_numpy(model_input(views, spec)).requires_grad_()
        answers = self(fed)
        tapped = answers[self.manifest.cam.tensor]
        (gradient,) = torch.autograd.grad(self._target(answers, task, label), tapped)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        result: Float = (weights * tapped)[0].detach().float().cpu().numpy()
        return result

    def _target(self, answers: dict[str, Any], task: str | None, label: int) -> Any:
        if task is not None:
            return self.scores(answers, task)[0, label]
        if self.manifest.features is None:
            raise ModelUnusable(f"{self.manifest.name} names no feature tensor")
        return answers[self.manifest.features.tensor][0].square().sum()


def knows_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 itself; emulated it would be slower than float32."""
    import torch

    # Older releases of torch cannot tell.
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _bounded(module: Any) -> Any:
    """The converted graph with every clamp between 0 and 6 as torch's own ReLU6, in place.

    A clamp whose bounds are tensors, as the converter writes it, takes many times as long forth
    and back. Other bounds stay: at a bound itself a clamp has a gradient and ReLU6 has none, which
    would make a model blind to black if it clips its input.
    """
    import torch

    for node in module.graph.nodes:
        if node.op != "call_function" or node.target is not torch.clamp:
            continue
        bounds = [_constant(module, node.kwargs.get(key)) for key in ("min", "max")]
        if len(node.args) == 1 and bounds == [0.0, 6.0]:
            node.target, node.kwargs = torch.nn.functional.relu6, {}
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _constant(module: Any, value: Any) -> float | None:
    """The number that an argument in a graph stands for, if it is one number and constant."""
    import torch

    if isinstance(value, torch.fx.Node) and value.op == "get_attr":
        value = attrgetter(str(value.target))(module)
    if torch.is_tensor(value) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, int | float) else None


def _logits_behind(graph: Graph, manifest: Manifest) -> dict[str, str]:
    """For each task answered with probabilities, the tensor that its softmax or sigmoid takes."""
    behind = {}
    for output in manifest.answers:
        node = graph.answered_by(output.tensor)
        if (
            output.kind == "probabilities"
            and node is not None
            and node.op_type in ("Softmax", "Sigmoid")
        ):
            behind[output.task] = str(node.input[0])
    return behind


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
