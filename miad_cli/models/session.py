"""Ask a model: ONNX Runtime, and the only place that chooses an execution provider."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import DeviceUnavailable, ModelUnusable, UsageError
from miad_cli.models.manifest import InputSpec, Manifest

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Device:
    """Where models run: `provider` is an ONNX Runtime execution provider, `index` the GPU.

    `threads` is how many a model may use at once; 0: as many as there are cores. With another
    number sums round otherwise, momentum steps make more of it, and other pixels come out: so it
    is one everywhere, and work is shared by processes.
    """

    provider: str = "CPUExecutionProvider"
    index: int = 0
    threads: int = 1


def choose_device(wanted: str) -> Device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device.

    `auto` takes a GPU where ONNX Runtime has one; `cuda` fails where it has none.

    Raises:
        UsageError: it is none of these.
        DeviceUnavailable: a GPU was asked for and ONNX Runtime offers none.
        ModelUnusable: ONNX Runtime is not installed.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", wanted):
        raise UsageError(f"{wanted!r} is no device", hint="There are auto, cpu, cuda and cuda:N.")
    runtime = _onnxruntime()
    offered = "CUDAExecutionProvider" in runtime.get_available_providers()
    name, _, index = wanted.partition(":")
    if name == "cuda" and not offered:
        raise DeviceUnavailable(
            "a GPU was asked for, but ONNX Runtime offers none on this machine",
            hint='Use --device cpu, or install  pip install "miad[gpu]"  on a machine with CUDA.',
        )
    if name == "cpu" or not offered:
        return Device()
    return Device("CUDAExecutionProvider", int(index or 0))


class Engine:
    """An ONNX file in ONNX Runtime, before or without a manifest.

    `outputs` names what it gives; `provider` is the one actually in use, read back after loading.

    Raises ModelUnusable where it cannot be loaded, DeviceUnavailable where it loaded elsewhere.
    """

    def __init__(self, name: str, content: bytes, device: Device) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = device.threads
        options.log_severity_level = 4  # what goes wrong is raised, and said by us
        # Threads that spin while they wait starve numpy's and torch's between two queries.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.provider != "CPUExecutionProvider":
            providers.insert(0, (device.provider, {"device_id": device.index}))
        try:
            self._session = runtime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime raises a family of its own, without a common base
            raise ModelUnusable(
                f"{name}: ONNX Runtime cannot load it: {reason_of(error)}"
            ) from None
        self.name = name
        self.provider: str = self._session.get_providers()[0]
        # Gradients are computed where queries are answered.
        cuda = self.provider == "CUDAExecutionProvider"
        self.device = f"cuda:{device.index}" if cuda else "cpu"
        if self.provider != device.provider:
            raise DeviceUnavailable(
                f"{name}: ONNX Runtime used {self.provider} instead of {device.provider}",
                hint="Check that the CUDA libraries are installed, or use --device cpu.",
            )
        self.outputs = tuple(output.name for output in self._session.get_outputs())

    def run(self, views: Float, spec: InputSpec, wanted: Sequence[str]) -> dict[str, Float]:
        """The outputs `wanted`, float32, for views (N, 3, rows, columns) in 0..1.

        Raises:
            ModelUnusable: the graph fails on such an input.
        """
        return self.run_fed(model_input(views, spec), spec, wanted)

    def run_fed(self, fed: Float, spec: InputSpec, wanted: Sequence[str]) -> dict[str, Float]:
        """The same for an input as `model_input` makes it."""
        fed = as_dtype(fed, spec)
        size = spec.batch or len(fed)
        parts = []
        for start in range(0, len(fed), size):
            part = fed[start : start + size]
            missing = size - len(part)  # a graph of fixed batch gets the last picture again
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            try:
                answers = self._session.run(list(wanted), {spec.tensor: part})
            except Exception as error:  # as above
                reason = reason_of(error)
                raise ModelUnusable(f"{self.name}: ONNX Runtime cannot run it: {reason}") from None
            parts.append([np.asarray(one)[: size - missing] for one in answers])
        joined = [
            one[0] if len(one) == 1 else np.concatenate(one) for one in zip(*parts, strict=True)
        ]
        answers = (one.astype(np.float32, copy=False) for one in joined)
        return dict(zip(wanted, answers, strict=True))


class Session:
    """A loaded model that answers queries.

    `run` takes views (N, 3, rows, columns), float32 in 0..1, and gives every declared output by
    tensor name. `labels` gives the order of classes in which a task is answered, where that is
    to be another one than the model's own.
    """

    def __init__(
        self,
        manifest: Manifest,
        content: bytes,
        device: Device,
        labels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._engine = Engine(manifest.name, content, device)
        self.manifest = manifest
        self.provider, self.device = self._engine.provider, self._engine.device
        self.threads = device.threads
        wanted = [output.tensor for output in manifest.outputs]
        wanted += [manifest.features.tensor] if manifest.features else []
        missing = [name for name in wanted if name not in self._engine.outputs]
        if missing:
            raise ModelUnusable(f"{manifest.name}: the model has no output {', '.join(missing)}")
        self._wanted = list(dict.fromkeys(wanted))
        self._labels = dict(labels or {})

    def run(self, views: Float) -> dict[str, Float]:
        """Every declared output for views (N, 3, rows, columns) in 0..1."""
        return self._engine.run(views, self.manifest.input, self._wanted)

    def run_fed(self, fed: Float) -> dict[str, Float]:
        """The same for a model input as `model_input` makes it."""
        return self._engine.run_fed(fed, self.manifest.input, self._wanted)

    def columns(self, task: str) -> tuple[int, ...]:
        """The model's own class for each class in the order that is wanted.

        Raises:
            ModelUnusable: the model does not know the task.
        """
        output = self.manifest.output_for(task)
        if output is None:
            raise ModelUnusable(f"{self.manifest.name} does not know the task {task}")
        return tuple(output.labels.index(one) for one in self._labels.get(task, output.labels))

    def probabilities(self, answers: Mapping[str, Float], task: str) -> Float:
        """Class probabilities (N, classes) for `task` out of what `run` gave."""
        order = list(self.columns(task))
        output = self.manifest.output_for(task)
        assert output is not None  # noqa: S101 - `columns` refused it
        scores = answers[output.tensor].reshape(len(answers[output.tensor]), -1)
        if scores.shape[1] != 1:
            return (softmax(scores) if output.kind == "logits" else scores)[:, order]
        if output.kind == "logits":
            return softmax(np.concatenate([-scores / 2, scores / 2], axis=1))[:, order]
        return np.concatenate([1 - scores, scores], axis=1)[:, order]

    def restored(self, answers: Mapping[str, Float]) -> tuple[Float, Float]:
        """What a removal network gave: pictures (N, 3, rows, columns) and masks (N, rows,
        columns), both in 0..1."""
        manifest = self.manifest
        low, high = manifest.image.range
        pictures = (planes_of(answers[manifest.image.tensor], manifest.input) - low) / (high - low)
        shown = np.repeat(pictures, 3, axis=1) if pictures.shape[1] == 1 else pictures
        if manifest.input.colours == "BGR":
            shown = shown[:, ::-1]
        return np.clip(shown, 0, 1), self.masks(answers)[:, -1]

    def masks(self, answers: Mapping[str, Float]) -> Float:
        """Probabilities (N, labels, rows, columns) out of the mask of a removal or segmentation
        network; a mask of one channel stays one."""
        spec = self.manifest.mask
        planes: Float = planes_of(answers[spec.tensor], self.manifest.input)
        if spec.values == "probabilities":
            return np.clip(planes, 0, 1)
        if planes.shape[1] > 1:
            return softmax(planes.swapaxes(1, 3)).swapaxes(1, 3)
        return softmax(np.stack([-planes / 2, planes / 2], axis=-1))[..., 1]


def planes_of(values: Any, spec: InputSpec) -> Any:
    """A map out of a model, numpy or torch, as (N, channels, rows, columns)."""
    if values.ndim == 3:
        return values[:, None]
    return values.swapaxes(1, 3).swapaxes(2, 3) if spec.layout == "NHWC" else values


def model_input(views: Float, spec: InputSpec) -> Float:
    """Views (N, 3, rows, columns) in 0..1 as the model's input, in its layout and range.

    float32 whatever the model takes: gradients need values between the integers.
    """
    planes = luminance(views) if spec.channels == 1 else views
    if spec.channels == 3 and spec.colours == "BGR":
        planes = planes[:, ::-1]
    low, high = spec.range
    mean = np.asarray(spec.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(spec.std, np.float32).reshape(1, -1, 1, 1)
    fed = (planes * (high - low) + low - mean) / std
    if spec.layout == "NHWC":
        fed = fed.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(fed, dtype=np.float32)


def as_dtype(fed: Float, spec: InputSpec) -> NDArray[Any]:
    """A model input in the element type that the graph takes."""
    if spec.dtype == "uint8":
        return np.clip(np.rint(fed), 0, 255).astype(np.uint8)
    return fed.astype(spec.dtype, copy=False)


def luminance(views: Float) -> Float:
    """Rec. 601 luminance of (N, 3, rows, columns), as (N, 1, rows, columns)."""
    weights = np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)
    result: Float = (views * weights).sum(axis=1, keepdims=True)
    return result


def softmax(logits: Float) -> Float:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Float = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ModelUnusable(
            "ONNX Runtime is not installed",
            hint='Install it with  pip install "miad[cpu]"  or  pip install "miad[gpu]".',
        ) from None
    return onnxruntime


def reason_of(error: Exception) -> str:
    """The first line of what an engine says, without its codes, short enough to be read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    plain = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    return plain if len(plain) <= 200 else plain[:199] + "…"
