"""What happens to pictures on their way to a model, at random and differentiable.

A perturbation that was only ever seen untouched fits the models it was made on and dies of the
first resizing. Each step of its making therefore looks at the picture through one of these. A
transform takes pictures (n, 1 or 3, h, w) in 0..1 and gives as many of the same shape; its
parameters are drawn when it is made and are the same for every picture of a batch, so a picture's
outcome does not depend on its company. torch's generator is one of the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Transform = Callable[[Tensor], Tensor]
    Maker = Callable[[torch.Generator], Transform]

# ITU-T T.81, Annex K: the quantisation steps that nearly every encoder scales.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# ITU-R BT.601, full range, as JFIF has it.
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def draw(generator: torch.Generator) -> Transform:
    """One random transform: something geometric, then something that touches the values; either
    may be nothing."""
    moved = TRANSFORMS[_pick(GEOMETRIC, generator)](generator)
    touched = TRANSFORMS[_pick(PHOTOMETRIC, generator)](generator)
    return lambda pictures: touched(moved(pictures))


def unchanged(_: torch.Generator) -> Transform:
    """Nothing."""
    return lambda pictures: pictures


def resize_and_pad(generator: torch.Generator) -> Transform:
    """Input diversity (DIM): shrunk to 75 to 100 percent and put somewhere on black."""
    import torch.nn.functional as nn

    share, down, across = (_uniform(generator, *span) for span in ((0.75, 1), (0, 1), (0, 1)))

    def transform(pictures: Tensor) -> Tensor:
        rows, columns = pictures.shape[2:]
        size = max(1, round(rows * share)), max(1, round(columns * share))
        small = nn.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)
        top, left = round((rows - size[0]) * down), round((columns - size[1]) * across)
        return nn.pad(small, (left, columns - size[1] - left, top, rows - size[0] - top))

    return transform


def shift(generator: torch.Generator) -> Transform:
    """Moved by up to 8 percent of each side, in whole pixels; black comes in."""
    import torch.nn.functional as nn

    down, across = (_uniform(generator, -0.08, 0.08) for _ in range(2))

    def transform(pictures: Tensor) -> Tensor:
        rows, columns = pictures.shape[2:]
        y, x = round(rows * down), round(columns * across)
        return nn.pad(pictures, (x, -x, y, -y))

    return transform


def turn(generator: torch.Generator) -> Transform:
    """Rotated by up to 15 degrees and scaled by up to 15 percent about the centre."""
    degrees, scale = _uniform(generator, -15, 15), _uniform(generator, 0.85, 1.15)
    return lambda pictures: _turned(pictures, degrees, scale)


def shuffle(generator: torch.Generator) -> Transform:
    """Block shuffle and rotate (BSR): cut into 2 x 2 blocks at random places; the columns of
    blocks change places, so do the blocks of each column, and each is turned by up to 24 degrees.
    """
    import torch

    count = 2
    # The cuts leave every block at least a fifth of the side.
    cuts = [_uniform(generator, 0.2, 0.8) for _ in range(count + 1)]
    orders = [torch.randperm(count, generator=generator).tolist() for _ in range(count + 1)]
    angles = [[_uniform(generator, -24, 24) for _ in range(count)] for _ in range(count)]

    def parts(pictures: Tensor, number: int, axis: int) -> list[Tensor]:
        length = pictures.shape[axis]
        cut = min(max(1, round(length * cuts[number])), length - 1)
        pieces = torch.split(pictures, [cut, length - cut], dim=axis)
        return [pieces[one] for one in orders[number]]

    def transform(pictures: Tensor) -> Tensor:
        if min(pictures.shape[2:]) < 2 * count:
            return pictures  # too narrow to be cut
        strips = []
        for number, strip in enumerate(parts(pictures, count, 3)):
            blocks = zip(parts(strip, number, 2), angles[number], strict=True)
            strips.append(torch.cat([_turned(one, angle) for one, angle in blocks], dim=2))
        return torch.cat(strips, dim=3)

    return transform


def blur(generator: torch.Generator) -> Transform:
    """Gaussian blur of 0.4 to 1.2 pixels."""
    sigma = _uniform(generator, 0.4, 1.2)
    return lambda pictures: blurred(pictures, sigma)


def jpeg(generator: torch.Generator) -> Transform:
    """JPEG of quality 40 to 95, colours halved."""
    quality = round(_uniform(generator, 40, 95))
    return lambda pictures: compressed(pictures, quality)


def noise(generator: torch.Generator) -> Transform:
    """Gaussian noise of up to 10/255, the same in all colours."""
    import torch

    seed, strength = _seed(generator), _uniform(generator, 0, 10 / 255)

    def transform(pictures: Tensor) -> Tensor:
        grain = torch.randn(
            pictures.shape[2:], device=pictures.device, generator=_grown(seed, pictures)
        )
        return (pictures + strength * grain).clamp(0, 1)

    return transform


def eight_bits(_: torch.Generator) -> Transform:
    """Rounded to whole 255ths."""
    return lambda pictures: rounded(pictures * 255) / 255


def tone(generator: torch.Generator) -> Transform:
    """Contrast about mid-grey by 0.8 to 1.25 and brightness by up to 0.08."""
    contrast, brightness = _uniform(generator, 0.8, 1.25), _uniform(generator, -0.08, 0.08)
    return lambda pictures: ((pictures - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


def spectrum(generator: torch.Generator) -> Transform:
    """Frequency noise (SSA): noise of 8/255 is added, and every coefficient of the picture's
    cosine transform multiplied by something in 0.5..1.5."""
    import torch

    seed = _seed(generator)

    def transform(pictures: Tensor) -> Tensor:
        rows, columns = pictures.shape[2:]
        grown = _grown(seed, pictures)
        down, across = _cosines(rows, pictures.device), _cosines(columns, pictures.device)
        grain, share = (
            made((rows, columns), device=pictures.device, generator=grown)
            for made in (torch.randn, torch.rand)
        )
        waves = down @ (pictures + grain * 8 / 255) @ across.T
        return (down.T @ (waves * (0.5 + share)) @ across).clamp(0, 1)

    return transform


TRANSFORMS: Mapping[str, Maker] = MappingProxyType(
    {
        "unchanged": unchanged,
        "resize-and-pad": resize_and_pad,
        "shift": shift,
        "turn": turn,
        "shuffle": shuffle,
        "blur": blur,
        "jpeg": jpeg,
        "noise": noise,
        "eight-bits": eight_bits,
        "tone": tone,
        "spectrum": spectrum,
    }
)
"""Every transform by its name: with a generator it draws its parameters."""

GEOMETRIC: Mapping[str, float] = MappingProxyType(
    {"unchanged": 1, "resize-and-pad": 1, "shift": 0.5, "turn": 1, "shuffle": 2}
)
PHOTOMETRIC: Mapping[str, float] = MappingProxyType(
    {
        "unchanged": 1,
        "blur": 1,
        "jpeg": 1,
        "noise": 0.5,
        "eight-bits": 0.5,
        "tone": 0.5,
        "spectrum": 1,
    }
)
"""How often `draw` takes each of them, relative to the others."""


def rounded(values: Tensor) -> Tensor:
    """Whole numbers; the gradient passes as if nothing had happened (straight through)."""
    return values + (values.round() - values).detach()


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (n, c, h, w) by `sigma` pixels; the edge is repeated outwards.

    As two products with banded matrices: convolutions of so few channels are many times as slow
    on a CPU, forth and back.
    """
    rows, columns = pictures.shape[2:]
    return _bell(rows, sigma, pictures) @ pictures @ _bell(columns, sigma, pictures).T


def _bell(length: int, sigma: float, like: Tensor) -> Tensor:
    """(length, length): row i weighs the samples around i; beyond the ends the last one counts."""
    import torch

    reach = max(1, math.ceil(3 * sigma))
    away = torch.arange(-reach, reach + 1)
    weights = torch.exp(-away.to(like.dtype).square() / (2 * sigma * sigma))
    places = (torch.arange(length)[:, None] + away).clamp(0, length - 1)
    # On the CPU: what meets at an edge is added up in the same order each time.
    matrix = torch.zeros(length, length, dtype=like.dtype)
    matrix.scatter_add_(1, places, (weights / weights.sum()).expand(length, -1))
    return matrix.to(like.device)


def compressed(pictures: Tensor, quality: int) -> Tensor:
    """What JPEG leaves of (n, 1 or 3, h, w) pictures in 0..1, without the entropy coding.

    `quality` is 1..100 as libjpeg counts it; colours are halved in both directions (4:2:0).
    Rounding passes gradients straight through.
    """
    import torch
    import torch.nn.functional as nn

    rows, columns = pictures.shape[2:]
    padded = nn.pad(pictures * 255, (0, -columns % 16, 0, -rows % 16), mode="replicate")
    if pictures.shape[1] == 1:
        back = _quantised(padded - 128, _LUMA, quality) + 128
    else:
        turned, returned = _colour_turns(pictures.device)
        ycc = torch.einsum("ck,nkhw->nchw", turned, padded)
        luma = _quantised(ycc[:, :1] - 128, _LUMA, quality) + 128
        chroma = _quantised(nn.avg_pool2d(ycc[:, 1:], 2), _CHROMA, quality)
        chroma = nn.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
        back = torch.einsum("ck,nkhw->nchw", returned, torch.cat([luma, chroma], dim=1))
    return (rounded(back) / 255).clamp(0, 1)[:, :, :rows, :columns]


def _quantised(planes: Tensor, steps: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Round the cosine coefficients of every 8 x 8 block of (n, c, h, w) planes."""
    count, channels, rows, columns = planes.shape
    step = _steps(steps, quality, planes.device)
    cosines = _cosines(8, planes.device)
    blocks = planes.reshape(count, channels, rows // 8, 8, columns // 8, 8).transpose(3, 4)
    kept = rounded((cosines @ blocks @ cosines.T) / step) * step
    back = (cosines.T @ kept @ cosines).transpose(3, 4)
    return back.reshape(planes.shape)


def _turned(pictures: Tensor, degrees: float, scale: float = 1.0) -> Tensor:
    """Rotated and enlarged by `scale` about the centre, in pixels; black comes in."""
    import torch
    import torch.nn.functional as nn

    rows, columns = pictures.shape[2:]
    cos, sin = (made(math.radians(degrees)) / scale for made in (math.cos, math.sin))
    # affine_grid counts every side as 2, whatever its length.
    matrix = torch.tensor(
        [[cos, -sin * rows / columns, 0.0], [sin * columns / rows, cos, 0.0]],
        device=pictures.device,
        dtype=pictures.dtype,
    )
    grid = nn.affine_grid(matrix[None], [1, 1, rows, columns], align_corners=False)
    return nn.grid_sample(pictures, grid.expand(len(pictures), -1, -1, -1), align_corners=False)


def _pick(weights: Mapping[str, float], generator: torch.Generator) -> str:
    import torch

    chances = torch.tensor(list(weights.values()), dtype=torch.float32)
    return list(weights)[int(torch.multinomial(chances, 1, generator=generator))]


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    import torch

    return low + (high - low) * float(torch.rand((), generator=generator))


def _seed(generator: torch.Generator) -> int:
    import torch

    return int(torch.randint(2**62, (), generator=generator))


def _grown(seed: int, pictures: Tensor) -> torch.Generator:
    """A generator where the pictures are, so that noise need not be carried there."""
    import torch

    return torch.Generator(pictures.device).manual_seed(seed)


# Small constants are kept on the device: copying them there makes the CPU wait for it.
@lru_cache(maxsize=16)
def _cosines(length: int, device: torch.device) -> Tensor:
    """The orthonormal discrete cosine transform of `length` samples, (length, length)."""
    import torch

    wave, place = torch.arange(float(length))[:, None], torch.arange(float(length))[None, :]
    rows = torch.cos(math.pi * (2 * place + 1) * wave / (2 * length)) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows.to(device)


@lru_cache(maxsize=4)
def _colour_turns(device: torch.device) -> tuple[Tensor, Tensor]:
    """From RGB to YCbCr and back, (3, 3) each."""
    import torch

    turned = torch.tensor(_TO_YCC)
    return turned.to(device), torch.linalg.inv(turned).to(device)


@lru_cache(maxsize=256)
def _steps(steps: tuple[tuple[int, ...], ...], quality: int, device: torch.device) -> Tensor:
    """The quantisation steps (8, 8) of a quality, as libjpeg scales them."""
    import torch

    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor(steps, dtype=torch.float32)
    return ((table * scale + 50) / 100).floor().clamp(1, 255).to(device)
