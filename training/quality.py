"""How alike two pictures are: PSNR and SSIM of batches (N, channels, rows, columns) in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
# A picture returned without any error counts as this, in dB.
PERFECT = 99.0


def psnr(got: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, (N,), in dB."""
    error = (got - wanted).square().mean(dim=(1, 2, 3)).double()
    return (-10.0 * torch.log10(error.clamp_min(1e-12))).clamp_max(PERFECT)


def ssim(got: Tensor, wanted: Tensor) -> Tensor:
    """Structural similarity of each picture, (N,): Wang et al. 2004, window of 11, sigma 1.5."""
    channels = got.shape[1]
    offsets = torch.arange(WINDOW, device=got.device) - WINDOW // 2
    weights = torch.exp(-offsets.float().square() / (2 * SIGMA**2))
    weights = (weights / weights.sum()).to(got.dtype)
    down = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)

    def blurred(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, down, groups=channels), down.transpose(2, 3), groups=channels)

    mean_a, mean_b = blurred(got), blurred(wanted)
    var_a = blurred(got * got) - mean_a * mean_a
    var_b = blurred(wanted * wanted) - mean_b * mean_b
    both = blurred(got * wanted) - mean_a * mean_b
    alike = ((2 * mean_a * mean_b + C1) * (2 * both + C2)) / (
        (mean_a.square() + mean_b.square() + C1) * (var_a + var_b + C2)
    )
    return alike.mean(dim=(1, 2, 3))


def overlap(got: Tensor, wanted: Tensor) -> Tensor:
    """Intersection over union of masks (N, 1, rows, columns) thresholded at 0.5, (N,).

    Two empty masks agree: 1.
    """
    a, b = got > 0.5, wanted > 0.5
    union = (a | b).sum(dim=(1, 2, 3))
    return torch.where(union > 0, (a & b).sum(dim=(1, 2, 3)) / union.clamp_min(1), 1.0)
