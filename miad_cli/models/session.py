"""Ask a model: ONNX Runtime, and the only place that chooses an execution provider."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import DeviceUnavailable, ModelUnusable, UsageError
from miad_cli.models.manifest import InputSpec, Manifest

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Device:
    """Where models run: `provider` is an ONNX Runtime execution provider, `index` the GPU."""

    provider: str = "CPUExecutionProvider"
    index: int = 0


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


class Session:
    """A loaded model that answers queries.

    `run` takes views (N, 3, rows, columns), float32 in 0..1, and gives every declared output by
    tensor name. The provider actually in use is `provider`, read back after loading.
    """

    def __init__(
        self, manifest: Manifest, content: bytes, device: Device, threads: int = 0
    ) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while they wait starve numpy's and torch's between two queries.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.provider != "CPUExecutionProvider":
            providers.insert(0, (device.provider, {"device_id": device.index}))
        try:
            self._session = runtime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime raises a family of its own, without a common base
            reason = str(error).splitlines()[0]
            raise ModelUnusable(f"{manifest.name}: ONNX Runtime cannot load it: {reason}") from None
        self.manifest = manifest
        self.provider: str = self._session.get_providers()[0]
        if self.provider != device.provider:
            raise DeviceUnavailable(
                f"{manifest.name}: ONNX Runtime used {self.provider} instead of {device.provider}",
                hint="Check that the CUDA libraries are installed, or use --device cpu.",
            )
        self._outputs = tuple(output.name for output in self._session.get_outputs())
        wanted = [output.tensor for output in manifest.outputs]
        wanted += [manifest.features.tensor] if manifest.features else []
        missing = [name for name in wanted if name not in self._outputs]
        if missing:
            raise ModelUnusable(f"{manifest.name}: the model has no output {', '.join(missing)}")
        self._wanted = wanted

    def run(self, views: Float) -> dict[str, Float]:
        """Every declared output for views (N, 3, rows, columns) in 0..1."""
        fed = model_input(views, self.manifest.input)
        answers = self._session.run(self._wanted, {self.manifest.input.tensor: fed})
        return dict(zip(self._wanted, answers, strict=True))

    def probabilities(self, answers: Mapping[str, Float], task: str) -> Float:
        """Class probabilities (N, classes) for `task` out of what `run` gave."""
        output = self.manifest.output_for(task)
        if output is None:
            raise ModelUnusable(f"{self.manifest.name} does not know the task {task}")
        scores = answers[output.tensor].reshape(len(answers[output.tensor]), -1)
        return softmax(scores) if output.kind == "logits" else scores


def model_input(views: Float, spec: InputSpec) -> Float:
    """Views (N, 3, rows, columns) in 0..1 as the model's input tensor, in its layout and range."""
    planes = luminance(views) if spec.channels == 1 else views
    low, high = spec.range
    mean = np.asarray(spec.mean, np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(spec.std, np.float32).reshape(1, -1, 1, 1)
    fed = (planes * (high - low) + low - mean) / std
    if spec.layout == "NHWC":
        fed = fed.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(fed, dtype=np.float32)


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
