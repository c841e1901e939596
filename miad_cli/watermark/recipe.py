"""The recipe: everything needed to put the same mark on, or to take it off, as plain integers.

It is MedLocker's certificate (the per-image parameter list). The logo is kept as rendered, so
that nothing has to be rendered again when a file is unlocked in ten years.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from miad_cli.watermark.blend import Bytes, Mark, Tone
from miad_cli.watermark.delta import LARGEST_SIDE, Delta
from miad_cli.watermark.logo import Sit

_SIZE = ("rows", "columns", "samples")


def recipe_of(mark: Mark, tone: Tone, sit: Sit, delta: Delta | None = None) -> dict[str, Any]:
    """The recipe as JSON integers; the bytes of the rendered logo and of the perturbation's grid
    travel beside it."""
    return {
        "x": mark.x,
        "y": mark.y,
        "alpha": mark.alpha,
        "logo": {"rows": mark.logo.shape[0], "columns": mark.logo.shape[1]},
        "sit": {
            "degrees": sit.degrees,
            "hue": sit.hue,
            "saturation": sit.saturation,
            "value": sit.value,
        },
        "tone": {
            "low": tone.low,
            "high": tone.high,
            "inverted": tone.inverted,
            "padding": list(tone.padding) if tone.padding else None,
            "beside": tone.beside,
        },
        "delta": None if delta is None else dict(zip(_SIZE, delta.grid.shape, strict=True)),
    }


def mark_of(recipe: Mapping[str, Any], logo: bytes) -> tuple[Mark, Tone]:
    """Mark and tone of a recipe; `logo` is the rendered logo, rows x columns x RGBA.

    Raises:
        ValueError: the recipe is not complete, or contradicts itself.
    """
    try:
        size = recipe["logo"]
        shape = (int(size["rows"]), int(size["columns"]), 4)
        pixels: Bytes = np.frombuffer(logo, np.uint8).reshape(shape)
        tone = recipe["tone"]
        padding = tone["padding"]
        numbers = (recipe["x"], recipe["y"], recipe["alpha"], tone["low"], tone["high"])
        if not all(type(number) is int for number in numbers) or min(numbers[:2]) < 0:
            raise ValueError("the recipe holds something that is no position")
        bounds = [tone["beside"], *(padding or ())]
        if not all(type(number) is int for number in bounds):
            raise ValueError("the recipe's padding is no number")
        if not 1 <= recipe["alpha"] <= 255:
            raise ValueError("the recipe's alpha is not in 1..255")
        return (
            Mark(recipe["x"], recipe["y"], recipe["alpha"], pixels),
            Tone(
                tone["low"],
                tone["high"],
                bool(tone["inverted"]),
                (int(padding[0]), int(padding[1])) if padding else None,
                int(tone["beside"]),
            ),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"the recipe is not complete ({type(error).__name__})") from None


def delta_of(recipe: Mapping[str, Any], grid: bytes | None) -> Delta | None:
    """The perturbation of a recipe, or None where there is none; `grid` is its cells as bytes,
    rows x columns x samples, or None where none travel with the recipe.

    Raises:
        ValueError: the recipe does not say, or it and the cells do not go together.
    """
    if "delta" not in recipe:
        raise ValueError("the recipe does not say whether there is a perturbation")
    size = recipe["delta"]
    if size is None or grid is None:
        if size is not None or grid is not None:
            raise ValueError("there is a perturbation without its cells, or cells without it")
        return None
    if not isinstance(size, dict) or size.keys() != set(_SIZE):
        raise ValueError("the perturbation's size is not complete")
    shape = tuple(size[key] for key in _SIZE)
    if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in shape):
        raise ValueError("the perturbation's size cannot be")
    rows, columns, samples = shape
    if len(grid) != rows * columns * samples:
        raise ValueError("the perturbation's cells are not as many as its size says")
    return Delta(np.frombuffer(grid, np.int8).reshape(shape))
