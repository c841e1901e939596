"""First-order maps: what a logo would change at every place, out of one backward pass a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.models.bank import Surrogate
from miad_cli.models.manifest import InputSpec
from miad_cli.models.session import model_input
from miad_cli.watermark.blend import Bytes, Mark, ink
from miad_cli.watermark.ensemble import Ensemble

Float = NDArray[np.float32]

CANVAS = 224
"""Cells on the longer side of a first-order map, at most. A cell is a square of whole pixels."""
PROJECTIONS = 6
"""Random directions in which features are looked at where the task is unknown."""


def stride_for(rows: int, columns: int) -> int:
    """Pixels on a side of a cell, so that a picture has at most `CANVAS` cells on a side."""
    return -(-max(rows, columns) // CANVAS)


def lattice_of(rows: int, columns: int, height: int, width: int, stride: int) -> tuple[int, int]:
    """How many corners, every `stride` pixels down and across, a logo of height x width has."""
    return (rows - height) // stride + 1, (columns - width) // stride + 1


class Slopes:
    """The first-order effect of pixels on every voice, and from it that of a logo at every place.

    With I the picture, as it is shown, m the logo's own opacity (0..1), c its colours and G the
    gradient of a voice's value, blending at alpha (MIAD-MARK Eq. 6) changes it by

        alpha (sum of G m c - sum of G I m)   over the pixels under the logo,

    two correlations for all places together. On large pictures G and G I are summed over cells of
    whole pixels, and corners are those of cells; otherwise it is exact for a linear model.

    The gradient is the mean over some pictures with a faint logo, in one pass: that at the clean
    picture is the slope of one point, and the way to a marked picture is long.

    Where the task is unknown a voice is minus |f(x) - f(I)| / |f(I)|, whose gradient is not
    defined at I and useless near it: any direction leads away. But |J d|, the length of what a
    step d does to the features f, is the root of the mean square of u J d over random directions
    u of unit variance (a Johnson-Lindenstrauss projection), and u J is a gradient.

    Attributes:
        known: (voices,), which have a slope; models that give no gradients have none.
        base: (voices,), their values without a logo.
    """

    def __init__(
        self, ensembles: Sequence[Ensemble], labels: Sequence[int | None], marks: Sequence[Mark]
    ) -> None:
        image = ensembles[0].image
        self._stride = stride_for(image.rows, image.columns)
        self._rows, self._columns = image.rows, image.columns
        self._ensembles = ensembles
        self._spectra: list[list[_Spectrum | None]] = []
        base: list[float] = []
        for ensemble, label in zip(ensembles, labels, strict=True):
            seen = ensemble.views_with(marks)
            models = zip(ensemble.bank.surrogates, seen, strict=True)
            spectra = []
            for number, (surrogate, views) in enumerate(models):
                clean = ensemble.views[number]
                gradients = _gradients(surrogate, ensemble.bank.task, label, views, clean)
                spectra.append(
                    None
                    if gradients is None
                    else self._spectrum(ensemble, number, gradients, squared=label is None)
                )
            self._spectra.append(spectra)
            count = len(spectra)
            base += [0.0] * count if label is None else ensemble.clean.margins(label).tolist()
        self.base: Float = np.array(base, np.float32)
        self.known = np.array([one is not None for each in self._spectra for one in each])

    def change(self, logo: Bytes) -> Float:
        """(voices, lattice rows, lattice columns): change of each voice's value per unit of alpha
        (0..1) with a rendered logo (h, w, 4) at each corner of the lattice; 0 without a slope."""
        height, width = logo.shape[:2]
        lattice = lattice_of(self._rows, self._columns, height, width, self._stride)
        opacity = logo[..., 3:].astype(np.float32) / 255
        changes = []
        for ensemble, spectra in zip(self._ensembles, self._spectra, strict=True):
            samples = ensemble.image.stored.shape[3]
            colours = ensemble.image.windowed(ink(logo, ensemble.tone, samples))[..., :samples]
            planes = np.concatenate([opacity * colours, -opacity], axis=-1).transpose(2, 0, 1)
            cells = _cells(planes, self._stride) / self._stride**2
            kernel = np.conj(np.fft.rfft2(cells, self._canvas))
            changes += [
                np.zeros(lattice, np.float32) if one is None else self._map(one, kernel, lattice)
                for one in spectra
            ]
        return np.stack(changes)

    @property
    def _canvas(self) -> tuple[int, int]:
        return -(-self._rows // self._stride), -(-self._columns // self._stride)

    def _map(self, spectrum: _Spectrum, kernel: Any, lattice: tuple[int, int]) -> Float:
        product = (spectrum.planes * kernel).sum(axis=1)
        maps = np.fft.irfft2(product, self._canvas)[:, : lattice[0], : lattice[1]]
        one = -np.sqrt((maps**2).mean(axis=0)) if spectrum.squared else maps.mean(axis=0)
        return np.asarray(one, np.float32)

    def _spectrum(
        self, ensemble: Ensemble, number: int, gradients: Float, squared: bool
    ) -> _Spectrum:
        """Gradients (k, 3, model rows, model columns) on the canvas, and times the picture."""
        eye, image = ensemble.eyes[number], ensemble.image
        stored = ensemble.stored
        if image.is_grey:  # three equal channels are one
            gradients = gradients.sum(axis=1, keepdims=True)
        pixels = (eye.rows.T @ gradients) @ eye.columns
        if image.padding is not None:  # never drawn on
            low, high = image.padding
            pixels = pixels * ~((stored >= low) & (stored <= high)).transpose(2, 0, 1)
        shown = image.windowed(stored)[..., : stored.shape[2]].transpose(2, 0, 1)
        both = np.concatenate([pixels, (pixels * shown).sum(axis=1, keepdims=True)], axis=1)
        return _Spectrum(np.fft.rfft2(_cells(both, self._stride), self._canvas), squared)


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Fourier transforms of (k, samples + 1) planes: gradients of each sample, and the gradients
    times the picture, summed over samples. `squared`: the k are directions of features."""

    planes: Any
    squared: bool


def _cells(planes: Float, stride: int) -> Float:
    """Sums of planes (..., rows, columns) over squares of `stride` pixels."""
    *rest, rows, columns = planes.shape
    down, across = -(-rows // stride), -(-columns // stride)
    gaps = [(0, 0)] * len(rest) + [(0, down * stride - rows), (0, across * stride - columns)]
    whole = np.pad(planes, gaps)
    result: Float = whole.reshape(*rest, down, stride, across, stride).sum(axis=(-3, -1))
    return result


def _gradients(
    surrogate: Surrogate, task: str | None, label: int | None, views: Float, clean: Float
) -> Float | None:
    """Gradients (k, 3, rows, columns) of a model's value with respect to what it sees; None where
    it gives none.

    With a label: of its margin, the mean over views (n, 3, rows, columns). Without: of random
    projections of its features, relative to their length, at the clean view.
    """
    if not surrogate.gradients:
        return None
    import torch

    model, spec = surrogate.differentiable, surrogate.manifest.input
    known = task is not None and label is not None
    views = views if known else np.repeat(clean[None], PROJECTIONS, axis=0)
    fed = torch.from_numpy(model_input(views, spec)).requires_grad_()
    answers = model(fed, coarse=True)
    if task is not None and label is not None:
        scores = model.scores(answers, task)
        others = scores.clone()
        others[:, label] = -torch.inf
        total = (scores[:, label] - others.amax(dim=1)).mean()
    else:
        assert surrogate.manifest.features is not None  # noqa: S101 - the bank took it for them
        features = answers[surrogate.manifest.features.tensor].flatten(1).float()
        directions = np.random.default_rng(0).standard_normal(features.shape, np.float32)
        length = features.detach().norm(dim=1, keepdim=True) + 1e-12
        total = (torch.from_numpy(directions).to(features.device) * features / length).sum()
    (gradient,) = torch.autograd.grad(total, fed)
    back = on_view(gradient.float().numpy(), spec)
    return back.sum(axis=0, keepdims=True) if known else back


def on_view(gradient: Float, spec: InputSpec) -> Float:
    """A gradient with respect to a model's input as one with respect to the view (N, 3, rows,
    columns) that `model_input` made it of: its transpose."""
    planes = gradient.transpose(0, 3, 1, 2) if spec.layout == "NHWC" else gradient
    low, high = spec.range
    planes = planes * ((high - low) / np.asarray(spec.std, np.float32).reshape(1, -1, 1, 1))
    if spec.channels == 1:
        planes = planes * np.array([0.299, 0.587, 0.114], np.float32).reshape(1, 3, 1, 1)
    elif spec.colours == "BGR":
        planes = planes[:, ::-1]
    return np.ascontiguousarray(planes, np.float32)
