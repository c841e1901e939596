"""Models as they look at tensors, so that what they say can be differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.models.bank import Surrogate
from miad_cli.models.manifest import InputSpec
from miad_cli.models.view import view_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Onlooker:
    """A model in front of canvases of one size; `coarse`: in bfloat16 where the CPU has it."""

    def __init__(
        self,
        surrogate: Surrogate,
        size: tuple[int, int],
        device: torch.device,
        coarse: bool = False,
    ) -> None:
        import torch

        self._coarse = coarse
        self.differentiable = surrogate.differentiable
        self._manifest = surrogate.manifest
        self._spec: InputSpec = surrogate.manifest.input
        view = view_for(self._spec, *size)
        self._rows, self._columns = (
            None if _is_identity(each) else torch.from_numpy(each).to(device)
            for each in (view.rows, view.columns)
        )
        low, high = self._spec.range
        mean, std = (np.reshape(each, (-1, 1, 1)) for each in (self._spec.mean, self._spec.std))
        self._scale, self._offset = (
            torch.tensor(each, dtype=torch.float32, device=device)
            for each in ((high - low) / std, (low - mean) / std)
        )
        self._luminance = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)

    def view(self, pictures: Tensor) -> Tensor:
        """What it sees of pictures (n, 1 or 3, rows, columns): (n, 3, model rows, …), 0..1."""
        seen = pictures if self._rows is None else self._rows @ pictures
        seen = seen if self._columns is None else seen @ self._columns.T
        return seen.expand(-1, 3, -1, -1)

    def answers(self, pictures: Tensor) -> dict[str, Tensor]:
        """Everything it gives for pictures (n, 1 or 3, rows, columns)."""
        return self._answered(self.view(pictures))

    def features(self, answers: dict[str, Tensor]) -> Tensor:
        """Its features (n, length)."""
        assert self._manifest.features is not None  # noqa: S101 - only such ones are asked
        return answers[self._manifest.features.tensor].flatten(1).float()

    def restored(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """What a removal network makes of a view (n, 3, rows, columns): pictures alike, and the
        mask (n, rows, columns) in 0..1."""
        pictures, mask = self.differentiable.restored(self._answered(view))
        logits = self._manifest.mask.values == "logits"
        return pictures.float(), (mask.sigmoid() if logits else mask).float()

    def _answered(self, view: Tensor) -> dict[str, Tensor]:
        """The model, fed as `model_input` feeds it."""
        import torch

        spec = self._spec
        planes = (view * self._luminance).sum(1, keepdim=True) if spec.channels == 1 else view
        planes = planes.flip(1) if spec.channels == 3 and spec.colours == "BGR" else planes
        fed = planes * self._scale + self._offset
        if spec.layout == "NHWC":
            return self.differentiable(fed.permute(0, 2, 3, 1), self._coarse)
        fed = fed.contiguous(memory_format=torch.channels_last)
        return self.differentiable(fed, self._coarse)


def _is_identity(matrix: NDArray[Any]) -> bool:
    """True for a model whose input has the canvas's own size, which is most of them."""
    return matrix.shape[0] == matrix.shape[1] and bool((matrix == np.eye(len(matrix))).all())


def device_of(surrogates: Sequence[Surrogate]) -> torch.device:
    """Where the models' torch side computes."""
    import torch

    devices = [one.differentiable.device for one in surrogates if one.gradients]
    return torch.device(devices[0] if devices else "cpu")
