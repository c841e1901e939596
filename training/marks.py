"""Logos drawn at random, and pictures marked with them, for training the removal networks.

A bank of logos is drawn once (Pillow); from then on everything happens in batches on the
training device: recolouring, rotating, scaling, placing, blending.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.nn import functional as F

LOGO_SIDE = 160
# Drawn larger and reduced, so that edges are smooth.
OVERSAMPLED = 2
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&+-"
# A black logo on black is no mark: nobody could find it.
VISIBLE = 2.0 / 255.0

Draw = ImageDraw.ImageDraw
Paint = tuple[int, int, int, int]


@dataclass(frozen=True)
class Marking:
    """How pictures are marked.

    alpha: lowest and highest opacity. size: lowest and highest side of the logo as a fraction
    of the picture's. stretch: largest ratio of its sides. grey: probability that the logo
    loses its colours; one on a grey picture does so twice as often. level: strongest recolouring.
    """

    alpha: tuple[float, float] = (0.3, 0.9)
    size: tuple[float, float] = (0.2, 0.65)
    stretch: float = 1.6
    grey: float = 0.25
    level: float = 0.5


@dataclass(frozen=True)
class Marked:
    """A batch of marked pictures: all (N, channels, rows, columns) float32 in 0..1.

    image, clean, mark: 3 channels, ``mark`` zero where there is none. alpha: 1 channel, the
    opacity of the mark. mask: 1 channel, 1 where it changes the picture visibly. image is rounded
    to 8 bits, as any picture that comes from a file.
    """

    image: Tensor
    clean: Tensor
    mask: Tensor
    alpha: Tensor
    mark: Tensor


def logo_bank(count: int, seed: int, side: int = LOGO_SIDE) -> NDArray[np.uint8]:
    """Draw logos: (count, 4, side, side) uint8, RGBA, transparent around the drawing."""
    rng = np.random.default_rng(seed)
    return np.stack([draw_logo(rng, side) for _ in range(count)])


def draw_logo(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Draw one logo of one to four elements: (4, side, side) uint8."""
    canvas = Image.new("RGBA", (side * OVERSAMPLED,) * 2)
    elements: tuple[Callable[[Draw, int, Paint, np.random.Generator], None], ...] = (
        _ellipse,
        _polygon,
        _star,
        _cross,
        _bars,
        _text,
        _text,
        _scribble,
    )
    palette = [_paint(rng) for _ in range(int(rng.integers(1, 4)))]
    for _ in range(int(rng.integers(1, 5))):
        element = elements[int(rng.integers(len(elements)))]
        layer = Image.new("RGBA", canvas.size)
        paint = palette[int(rng.integers(len(palette)))]
        element(ImageDraw.Draw(layer), canvas.width, paint, rng)
        canvas.alpha_composite(layer)
    if rng.random() < 0.25:
        canvas = _shaded(canvas, rng)
    if rng.random() < 0.15:
        canvas = canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 3.0))))
    pixels = np.asarray(canvas.resize((side, side), Image.Resampling.BOX))
    if pixels[..., 3].max() < 128:
        return draw_logo(rng, side)
    return np.ascontiguousarray(_tight(pixels, side).transpose(2, 0, 1))


def _tight(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut to what is drawn and stretch it back to the whole side: sizes then mean the drawing."""
    rows, columns = (np.flatnonzero(pixels[..., 3].max(axis=a) > 8) for a in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    drawn = Image.fromarray(pixels).crop(box)
    scale = (side - 2) / max(drawn.size)
    size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(
        drawn.resize(size, Image.Resampling.BILINEAR),
        ((side - size[0]) // 2, (side - size[1]) // 2),
    )
    return np.asarray(canvas)


def _paint(rng: np.random.Generator) -> Paint:
    if rng.random() < 0.3:  # white, black or a grey: common in logos
        level = int(rng.choice([0, 255, int(rng.integers(256))]))
        return (level, level, level, 255)
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return (red, green, blue, 255)


def _box(size: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = rng.uniform(0.25, 0.95, 2) * size
    x, y = rng.random(2) * (size - width, size - height)
    return (x, y, x + width, y + height)


def _line(size: int, rng: np.random.Generator) -> int:
    return int(rng.uniform(0.01, 0.08) * size) + 1


def _ellipse(draw: Draw, size: int, paint: Paint, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        draw.ellipse(_box(size, rng), fill=paint)
    else:
        draw.ellipse(_box(size, rng), outline=paint, width=_line(size, rng))


def _polygon(draw: Draw, size: int, paint: Paint, rng: np.random.Generator) -> None:
    if rng.random() < 0.3:
        radius = int(rng.uniform(0.0, 0.12) * size)
        hollow = rng.random() < 0.5
        draw.rounded_rectangle(
            _box(size, rng), radius, None if hollow else paint, paint, _line(size, rng)
        )
        return
    x0, y0, x1, y1 = _box(size, rng)
    angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 8))))
    points = [
        ((x0 + x1) / 2 + (x1 - x0) / 2 * math.cos(a), (y0 + y1) / 2 + (y1 - y0) / 2 * math.sin(a))
        for a in angles
    ]
    draw.polygon(points, fill=paint)


def _star(draw: Draw, size: int, paint: Paint, rng: np.random.Generator) -> None:
    x0, y0, x1, y1 = _box(size, rng)
    tips, inner, turn = int(rng.integers(4, 13)), rng.uniform(0.3, 0.8), rng.uniform(0, 6.3)
    points = []
    for i in range(2 * tips):
        reach, angle = (inner if i % 2 else 1.0), turn + math.pi * i / tips
        points.append(
            (
                (x0 + x1) / 2 + reach * (x1 - x0) / 2 * math.cos(angle),
                (y0 + y1) / 2 + reach * (y1 - y0) / 2 * math.sin(angle),
            )
        )
    draw.polygon(points, fill=paint)


def _cross(draw: Draw, size: int, paint: Paint, rng: np.random.Generator) -> None:
    x0, y0, x1, y1 = _box(size, rng)
    arm = rng.uniform(0.12, 0.4)
    across, down = (x1 - x0) * arm / 2, (y1 - y0) * arm / 2
    draw.rectangle(((x0 + x1) / 2 - across, y0, (x0 + x1) / 2 + across, y1), fill=paint)
    draw.rectangle((x0, (y0 + y1) / 2 - down, x1, (y0 + y1) / 2 + down), fill=paint)


def _bars(draw: Draw, size: int, paint: Paint, rng: np.random.Generator) -> None:
    x0, y0, x1, y1 = _box(size, rng)
    count = int(rng.integers(2, 9))
    step = (y1 - y0) / count
    for i in range(count):
        draw.rectangle((x0, y0 + i * step, x1, y0 + (i + rng.uniform(0.2, 0.7)) * step), fill=paint)


def _text(draw: Draw, size: int, paint: Paint, rng: np.random.Generator) -> None:
    length = int(rng.integers(1, 9))
    word = "".join(LETTERS[int(i)] for i in rng.integers(0, len(LETTERS), length))
    height = rng.uniform(0.9, 1.8) * size / max(length, 2)
    stroke = int(rng.choice([0, 0, 2, 5]))
    x, y = rng.uniform(0.0, 0.25, 2) * size
    draw.text(
        (x, y), word, fill=paint, font=ImageFont.load_default(float(height)), stroke_width=stroke
    )


def _scribble(draw: Draw, size: int, paint: Paint, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        start = float(rng.uniform(0, 360))
        stop = start + float(rng.uniform(60, 300))
        draw.arc(_box(size, rng), start, stop, fill=paint, width=_line(size, rng))
        return
    points = [(float(x), float(y)) for x, y in rng.random((int(rng.integers(3, 8)), 2)) * size]
    draw.line(points, fill=paint, width=_line(size, rng), joint="curve")


def _shaded(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A linear change of brightness across the logo."""
    ramp = np.linspace(rng.uniform(0.4, 1.3), rng.uniform(0.4, 1.3), canvas.width)
    grid = ramp[None, :, None] if rng.random() < 0.5 else ramp[:, None, None]
    pixels = np.asarray(canvas).astype(np.float32)
    pixels[..., :3] = np.clip(pixels[..., :3] * grid, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def mark(
    clean: Tensor, bank: Tensor, how: Marking, generator: torch.Generator, colour: Tensor
) -> Marked:
    """Mark pictures (N, 3, rows, columns) float32 in 0..1, one logo each.

    bank: (logos, 4, side, side) uint8. colour: (N,) bool, false for grey pictures. All tensors
    and the generator on one device.
    """
    count, device = len(clean), clean.device

    def uniform(low: float, high: float) -> Tensor:
        drawn = torch.rand(count, device=device, generator=generator)
        return low + (high - low) * drawn

    chosen = torch.randint(len(bank), (count,), device=device, generator=generator)
    logos = bank[chosen].float() / 255.0
    grey = how.grey * (2.0 - colour.float())
    paints = _recoloured(logos[:, :3], how.level, grey, generator)
    # The paint is multiplied by the logo's own opacity while it is resampled: without that,
    # the black around the drawing bleeds into its edge.
    layered = torch.cat([paints * logos[:, 3:], logos[:, 3:]], dim=1)
    grid = F.affine_grid(
        _placement(uniform, how, count, device),
        list(layered.shape[:2]) + list(clean.shape[2:]),
        align_corners=False,
    )
    placed = F.grid_sample(layered, grid, align_corners=False)
    own = placed[:, 3:].clamp(0.0, 1.0)
    colours = (placed[:, :3] / own.clamp_min(1e-4)).clamp(0.0, 1.0)
    alpha = own * uniform(*how.alpha).view(-1, 1, 1, 1)
    blended = alpha * colours + (1.0 - alpha) * clean
    mask = ((blended - clean).abs().amax(dim=1, keepdim=True) > VISIBLE).float()
    image = torch.round(blended * 255.0) / 255.0
    return Marked(image, clean, mask, alpha, colours * mask)


def _recoloured(paints: Tensor, level: float, grey: Tensor, generator: torch.Generator) -> Tensor:
    count, device = len(paints), paints.device
    gain = 1.0 + level * (2.0 * torch.rand(count, 3, 1, 1, device=device, generator=generator) - 1)
    order = torch.rand(count, 3, device=device, generator=generator).argsort(1)
    mixed = paints.gather(1, order[:, :, None, None].expand_as(paints))
    inverted = torch.rand(count, 1, 1, 1, device=device, generator=generator) < 0.2
    changed = (torch.where(inverted, 1.0 - mixed, mixed) * gain).clamp(0.0, 1.0)
    weights = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)
    plain = (changed * weights).sum(1, keepdim=True).expand_as(changed)
    dull = torch.rand(count, device=device, generator=generator) < grey
    return torch.where(dull.view(-1, 1, 1, 1), plain, changed)


def _placement(
    uniform: Callable[[float, float], Tensor], how: Marking, count: int, device: torch.device
) -> Tensor:
    """Affine matrices (N, 2, 3) from the picture's coordinates (-1..1) to the logo's."""
    angle = uniform(-math.pi, math.pi)
    size = uniform(*how.size)
    stretch = torch.exp(uniform(-0.5, 0.5) * math.log(how.stretch))
    across, down = size * stretch, size / stretch
    # The centre stays where at least most of the logo lies inside.
    x, y = (uniform(-1.0, 1.0) * (1.0 - 0.7 * size) for _ in range(2))
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 1] = cos / across, sin / across
    theta[:, 1, 0], theta[:, 1, 1] = -sin / down, cos / down
    theta[:, 0, 2] = -(cos * x + sin * y) / across
    theta[:, 1, 2] = -(-sin * x + cos * y) / down
    return theta
