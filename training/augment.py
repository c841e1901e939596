"""Random distortions for training: what someone who reuses the pictures would apply too.

All of it works on batches, on whatever device the pictures are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# ITU-T T.81, Annex K: the quantisation steps that nearly every encoder scales.
LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# ITU-R BT.601, full range, as JFIF has it.
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are distorted.

    flip, jpeg: probabilities. rotation: degrees, either way. scale, shift: fractions of the
    side. contrast, brightness, gamma, saturation: fractions of the range. noise: standard
    deviation on the 0..1 scale. quality: lowest and highest JPEG quality.
    """

    flip: float = 0.5
    rotation: float = 18.0
    scale: float = 0.15
    shift: float = 0.06
    contrast: float = 0.2
    brightness: float = 0.1
    gamma: float = 0.2
    saturation: float = 0.2
    noise: float = 0.02
    jpeg: float = 0.3
    quality: tuple[int, int] = (40, 95)


def augment(images: Tensor, side: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Distort (n, 1 or 3, h, w) uint8 pictures; returns (n, 3, side, side) float32 in 0..1.

    The generator must be on the pictures' device.
    """
    draw = _Draw(len(images), images.device, generator)
    scaled = images.float() / 255.0
    grid = F.affine_grid(_affine(how, draw), [len(images), 1, side, side], align_corners=False)
    warped = F.grid_sample(scaled, grid, align_corners=False)
    chosen = (draw.uniform(0.0, 1.0) < how.jpeg).nonzero()[:, 0]
    if len(chosen):
        quality = torch.floor(draw.uniform(how.quality[0], how.quality[1] + 1.0))
        warped = warped.index_copy(0, chosen, jpeg(warped[chosen], quality[chosen]))
    return _tone(warped, how, draw).expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class _Draw:
    """Random numbers, one a picture."""

    count: int
    device: torch.device
    generator: torch.Generator

    def uniform(self, low: float, high: float) -> Tensor:
        drawn = torch.rand(self.count, device=self.device, generator=self.generator)
        return low + (high - low) * drawn

    def around(self, spread: float) -> Tensor:
        return self.uniform(-spread, spread).view(-1, 1, 1, 1)


def _affine(how: Augmentation, draw: _Draw) -> Tensor:
    """Matrices (n, 2, 3) from the result's coordinates (-1..1) to the picture's."""
    angle = draw.uniform(-math.radians(how.rotation), math.radians(how.rotation))
    mirror = torch.where(draw.uniform(0.0, 1.0) < how.flip, -1.0, 1.0)
    across, down = (1.0 + draw.uniform(-how.scale, how.scale) for _ in range(2))
    theta = torch.zeros(draw.count, 2, 3, device=draw.device)
    theta[:, 0, 0] = mirror * torch.cos(angle) * across
    theta[:, 0, 1] = -torch.sin(angle) * down
    theta[:, 1, 0] = mirror * torch.sin(angle) * across
    theta[:, 1, 1] = torch.cos(angle) * down
    for axis in range(2):
        # affine_grid counts a side as 2.
        theta[:, axis, 2] = 2.0 * draw.uniform(-how.shift, how.shift)
    return theta


def _tone(scaled: Tensor, how: Augmentation, draw: _Draw) -> Tensor:
    saturation = 1.0 + draw.around(how.saturation)
    if scaled.shape[1] == 3:
        grey = scaled.mean(dim=1, keepdim=True)
        scaled = grey + (scaled - grey) * saturation
    curved = scaled.clamp_min(1e-6) ** torch.exp(draw.around(how.gamma))
    lighter = draw.around(how.brightness) * (curved > 0.02)
    changed = curved * (1.0 + draw.around(how.contrast)) + lighter
    grain = torch.randn(
        (draw.count, 1, *scaled.shape[2:]), device=draw.device, generator=draw.generator
    )
    strength = draw.uniform(0.0, how.noise).view(-1, 1, 1, 1)
    return (changed + grain * strength).clamp(0.0, 1.0)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """What JPEG would leave of (n, 1 or 3, h, w) pictures in 0..1, without the entropy coding.

    quality: (n,), 1..100, as libjpeg counts it. Colours are halved in both directions (4:2:0),
    as by default; sides that are no multiple of 16 are padded with their edge.
    """
    height, width = images.shape[2:]
    padding = (0, -width % 16, 0, -height % 16)
    padded = F.pad(images, padding, mode="replicate")
    scale = torch.where(quality < 50, 5000.0 / quality, 200.0 - 2.0 * quality)
    if images.shape[1] == 1:
        luma = _quantised(padded * 255.0 - 128.0, LUMA_STEPS, scale) + 128.0
        return (luma / 255.0).clamp(0.0, 1.0)[:, :, :height, :width]
    turn, back = _colour_turns(images.device)
    ycc = torch.einsum("ck,nkhw->nchw", turn, padded * 255.0)
    luma = _quantised(ycc[:, :1] - 128.0, LUMA_STEPS, scale) + 128.0
    chroma = _quantised(F.avg_pool2d(ycc[:, 1:], 2), CHROMA_STEPS, scale)
    chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ck,nkhw->nchw", back, torch.cat([luma, chroma], dim=1))
    return (rgb / 255.0).clamp(0.0, 1.0)[:, :, :height, :width]


def _quantised(planes: Tensor, steps: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    """Round the cosine coefficients of every 8 x 8 block of (n, c, h, w) planes."""
    n, c, h, w = planes.shape
    table = _table(steps, planes.device)
    scaled = ((table * scale.view(-1, 1, 1) + 50.0) / 100.0).floor().clamp(1.0, 255.0)
    cosines = _cosines(planes.device)
    blocks = planes.reshape(n, c, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5)
    wide = scaled.view(n, 1, 1, 1, 8, 8)
    rounded = torch.round((cosines @ blocks @ cosines.T) / wide) * wide
    back = cosines.T @ rounded @ cosines
    return back.permute(0, 1, 2, 4, 3, 5).reshape(n, c, h, w)


# Small constants are kept on the device: copying them there makes the CPU wait for it.
@lru_cache(maxsize=4)
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal discrete cosine transform of 8 samples, (8, 8)."""
    k, x = torch.arange(8.0)[:, None], torch.arange(8.0)[None, :]
    rows = torch.cos(math.pi * (2 * x + 1) * k / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows.to(device)


@lru_cache(maxsize=4)
def _colour_turns(device: torch.device) -> tuple[Tensor, Tensor]:
    """From RGB to YCbCr and back, (3, 3) each."""
    turn = torch.tensor(TO_YCC)
    return turn.to(device), torch.linalg.inv(turn).to(device)


@lru_cache(maxsize=8)
def _table(steps: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(steps, dtype=torch.float32, device=device)
