"""Random distortions for training: what someone who reuses the pictures would apply too."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """How far pictures are distorted.

    flip, jpeg: probabilities. rotation: degrees, either way. scale, shift: fractions of the
    side. contrast, brightness, gamma: fractions of the range. noise: standard deviation on
    the 0..1 scale. quality: lowest and highest JPEG quality.
    """

    flip: float = 0.5
    rotation: float = 18.0
    scale: float = 0.15
    shift: float = 0.06
    contrast: float = 0.2
    brightness: float = 0.1
    gamma: float = 0.2
    noise: float = 0.02
    jpeg: float = 0.3
    quality: tuple[int, int] = (40, 95)


def augment(
    images: NDArray[np.uint8], side: int, how: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Distort (n, 1 or 3, h, w) uint8 pictures; returns (n, 3, side, side) float32 in 0..1."""
    compressed = np.stack(
        [_jpeg(p, how.quality, rng) if rng.random() < how.jpeg else p for p in images]
    )
    scaled = torch.from_numpy(compressed).float() / 255.0
    grid = F.affine_grid(
        _affine(len(images), how, rng), [len(images), 1, side, side], align_corners=False
    )
    warped = F.grid_sample(scaled, grid, align_corners=False)
    return _tone(warped, how, rng).expand(-1, 3, -1, -1)


def _jpeg(
    picture: NDArray[np.uint8], quality: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    pixels = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
    chosen = int(rng.integers(quality[0], quality[1] + 1))
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=chosen)
    decoded = np.asarray(Image.open(stream))
    return decoded[None] if decoded.ndim == 2 else decoded.transpose(2, 0, 1)


def _affine(count: int, how: Augmentation, rng: np.random.Generator) -> Tensor:
    angle = np.deg2rad(rng.uniform(-how.rotation, how.rotation, count))
    mirror = np.where(rng.random(count) < how.flip, -1.0, 1.0)
    across, down = 1.0 + rng.uniform(-how.scale, how.scale, (2, count))
    # affine_grid counts a side as 2.
    shift = 2.0 * rng.uniform(-how.shift, how.shift, (count, 2))
    theta = np.empty((count, 2, 3), np.float32)
    theta[:, 0, 0] = mirror * np.cos(angle) * across
    theta[:, 0, 1] = -np.sin(angle) * down
    theta[:, 1, 0] = mirror * np.sin(angle) * across
    theta[:, 1, 1] = np.cos(angle) * down
    theta[:, :, 2] = shift
    return torch.from_numpy(theta)


def _tone(scaled: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
    def draw(spread: float) -> Tensor:
        return torch.from_numpy(
            rng.uniform(-spread, spread, (len(scaled), 1, 1, 1)).astype(np.float32)
        )

    curved = scaled.clamp_min(1e-6) ** torch.exp(draw(how.gamma))
    changed = curved * (1.0 + draw(how.contrast)) + draw(how.brightness) * (curved > 0.02)
    noise = rng.standard_normal(changed.shape, np.float32) * np.float32(how.noise * rng.random())
    return (changed + torch.from_numpy(noise)).clamp(0.0, 1.0)
