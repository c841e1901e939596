"""Does a model do here what its manifest says? Checksum, queries, and gradients."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import DeviceUnavailable, ModelUnusable
from miad_cli.models.bank import Surrogate
from miad_cli.models.gradients import Differentiable
from miad_cli.models.manifest import Manifest
from miad_cli.models.session import Device, Session, model_input, planes_of

Float = NDArray[np.float32]

STEPS = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
"""How far a finite difference goes, as shares of the input's own spread."""
TOLERANCE = 0.1
"""How far the best finite difference may be from the gradient, as a share of the larger: graphs
have kinks, and float32 has seven digits."""


@dataclass(frozen=True)
class Gradients:
    """How the differentiable path compares; `fault` is empty where it can be trusted.

    `difference` is the largest of an output from ONNX Runtime's, relative to its spread; `slope`
    that of the gradient from a finite difference, relative to it.
    """

    fault: str = ""
    difference: float | None = None
    slope: float | None = None


@dataclass(frozen=True)
class Checked:
    """What became of checking one model. `reason` is empty unless it failed."""

    name: str
    folder: Path
    role: str
    sha256: Literal["ok", "failed"]
    queries: Literal["ok", "failed", "not tried"]
    gradients: Literal["ok", "query-only", "failed", "not tried"]
    difference: float | None
    slope: float | None
    provider: str
    seconds: float
    reason: str
    hint: str = ""

    @property
    def ok(self) -> bool:
        return not self.reason


def check_model(folder: Path, device: Device) -> Checked:
    """Check one model; what is wrong with it is in the result.

    Raises:
        DeviceUnavailable: the GPU that was asked for is not there.
    """
    started = time.perf_counter()
    facts: dict[str, Any] = {
        "name": folder.name, "folder": folder, "role": "", "sha256": "failed",
        "queries": "not tried", "gradients": "not tried", "difference": None, "slope": None,
        "provider": "", "reason": "",
    }  # fmt: skip
    try:
        surrogate = Surrogate(folder, device)
        manifest = surrogate.manifest
        facts |= {"name": manifest.name, "role": manifest.role, "sha256": "ok", "queries": "failed"}
        session = surrogate.session
        check_outputs(session)
        facts |= {"provider": session.provider, "queries": "ok", "gradients": "failed"}
        if manifest.query_only is not None:
            facts["gradients"] = "query-only"
        else:
            found = compare_gradients(surrogate.differentiable, session)
            facts |= {"difference": found.difference, "slope": found.slope}
            if found.fault:
                raise ModelUnusable(f"{manifest.name}: no gradients: {found.fault}")
            facts["gradients"] = "ok"
    except DeviceUnavailable:
        raise
    except ModelUnusable as error:
        facts |= {"reason": error.message, "hint": error.hint}
    return Checked(**facts, seconds=time.perf_counter() - started)


def check_outputs(session: Session) -> None:
    """Ask a model about two pictures, and compare what comes with what its manifest says.

    Raises:
        ModelUnusable: it gives something else.
    """
    manifest = session.manifest
    spec = manifest.input
    views = np.random.default_rng(0).random((2, 3, spec.rows, spec.columns), np.float32)
    answers = session.run(views)
    for name, values in answers.items():
        if len(values) != 2 or not np.isfinite(values).all():
            raise ModelUnusable(f"{manifest.name}: {name} is not a number for each picture")
    for output in manifest.answers:
        columns = answers[output.tensor].reshape(2, -1).shape[1]
        if columns != len(output.labels) and (columns, len(output.labels)) != (1, 2):
            raise ModelUnusable(
                f"{manifest.name}: {output.tensor} has {columns} classes, and its manifest names "
                f"{len(output.labels)}"
            )
        total = session.probabilities(answers, output.task).sum(axis=1)
        if not np.allclose(total, 1, atol=1e-2):
            raise ModelUnusable(f"{manifest.name}: {output.tensor} gives no probabilities")
    if manifest.role == "classifier":
        return
    size = (spec.rows, spec.columns)
    maps = [(manifest.mask.tensor, 1 if manifest.role == "removal" else None)]
    if manifest.role == "removal":
        maps.append((manifest.image.tensor, spec.channels))
    for tensor, channels in maps:
        values = answers[tensor]
        planes = planes_of(values, spec) if values.ndim in (3, 4) else values.reshape(2, -1, 1, 1)
        counts = (channels,) if channels else (len(manifest.mask.labels), 1)
        if planes.shape[2:] != size or planes.shape[1] not in counts:
            shape = " x ".join(map(str, values.shape[1:]))
            raise ModelUnusable(f"{manifest.name}: {tensor} is {shape}, no map of the picture")


def gradients_of(manifest: Manifest, content: bytes, session: Session) -> Gradients:
    """Whether a model has gradients to be trusted, and why not."""
    try:
        return compare_gradients(Differentiable(manifest, content, session), session)
    except ModelUnusable as error:
        return Gradients(error.message.removeprefix(f"{manifest.name}: no gradients: "))


def compare_gradients(differentiable: Differentiable, session: Session) -> Gradients:
    """Hold the differentiable path against ONNX Runtime: outputs, and a slope.

    The slope is along the gradient of a weighted sum of the outputs: it must be the gradient's
    length. It is taken through ONNX Runtime, or, where integers or half precision go in, through
    torch.
    """
    import torch

    spec = session.manifest.input
    steady = np.random.default_rng(1)
    noise = steady.integers(0, 256, (1, 3, spec.rows, spec.columns))
    views = (np.repeat(noise[:, :1], 3, axis=1) / 255).astype(np.float32)
    fed = torch.from_numpy(model_input(views, spec))
    names = [output.tensor for output in session.manifest.outputs]
    expected = session.run(views)
    spread = {name: float(np.abs(expected[name]).max()) + 1e-6 for name in names}
    weights = {
        name: torch.from_numpy(
            steady.normal(0, 1, expected[name].shape).astype(np.float32) / spread[name]
        )
        for name in names
    }

    def total(answers: dict[str, Any]) -> Any:
        return sum((answers[name].float().cpu() * weights[name]).sum() for name in names)

    try:
        there = fed.clone().requires_grad_()
        answers = differentiable(there)
        (gradient,) = torch.autograd.grad(total(answers), there)
    except Exception as error:  # torch raises whatever an operator's backward raises
        return Gradients(f"{type(error).__name__} on the way back")
    difference = max(
        float(np.abs(answers[name].detach().float().cpu().numpy() - expected[name]).max())
        / spread[name]
        for name in names
    )
    if not torch.isfinite(gradient).all():
        return Gradients("they are not numbers", difference)
    if _vanish(differentiable, session):
        return Gradients("they vanish everywhere", difference)
    length = float(gradient.norm())

    def through_torch(moved: Any) -> float:
        with torch.no_grad():
            return float(total(differentiable(moved)))

    def through_runtime(moved: Any) -> float:
        given = session.run_fed(moved.numpy())
        return float(total({name: torch.from_numpy(given[name]) for name in names}))

    value = through_runtime if spec.dtype == "float32" else through_torch
    direction = gradient / length if length else torch.ones_like(fed) / fed.numel() ** 0.5
    size = float(fed.std()) * fed.numel() ** 0.5
    slopes = []
    for step in STEPS:
        forth = value(fed + direction * size * step)
        back = value(fed - direction * size * step)
        slopes.append((forth - back) / (2 * size * step))
    noise_floor = 1e-5 / (size * STEPS[0])
    errors = [abs(s - length) / max(abs(s), length, noise_floor) for s in slopes]
    slope = min(errors)
    fault = "" if slope <= TOLERANCE else "the slope of its outputs is not their gradient"
    return Gradients(fault, difference, slope)


def _vanish(differentiable: Differentiable, session: Session) -> bool:
    """True where pictures change what a classifier says, and its gradients know nothing of it."""
    import torch

    manifest, spec = session.manifest, session.manifest.input
    pictures = np.random.default_rng(2).random((2, 3, spec.rows, spec.columns), np.float32)
    pictures[0] *= 0.2
    answers = session.run(pictures)
    for output in manifest.answers:
        values = answers[output.tensor]
        if np.abs(values[0] - values[1]).max() <= 1e-4 * np.abs(values).max():
            continue
        for picture in pictures:
            fed = torch.from_numpy(model_input(picture[None], spec)).requires_grad_()
            scores = differentiable.scores(differentiable(fed), output.task)
            (gradient,) = torch.autograd.grad(scores.square().sum(), fed)
            if gradient.any():
                break
        else:
            return True
    return False
