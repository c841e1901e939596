"""The recipe: everything needed to put the same mark on, or to take it off, as plain integers.

It is MedLocker's certificate (the per-image parameter list). The logo is kept as rendered, so
that nothing has to be rendered again when a file is unlocked in ten years.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from miad_cli.watermark.blend import Bytes, Mark, Tone
from miad_cli.watermark.logo import Sit


def recipe_of(mark: Mark, tone: Tone, sit: Sit) -> dict[str, Any]:
    """The recipe as JSON integers; the rendered logo's bytes travel beside it."""
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
        "delta": None,
    }


def mark_of(recipe: Mapping[str, Any], logo: bytes) -> tuple[Mark, Tone]:
    """Mark and tone of a recipe; `logo` is the rendered logo, rows x columns x RGBA.

    Raises:
        ValueError: the recipe is not complete, contradicts itself, or needs a newer version.
    """
    try:
        if recipe["delta"] is not None:
            raise ValueError("the recipe holds a perturbation that this version cannot undo")
        size = recipe["logo"]
        shape = (int(size["rows"]), int(size["columns"]), 4)
        pixels: Bytes = np.frombuffer(logo, np.uint8).reshape(shape)
        tone = recipe["tone"]
        padding = tone["padding"]
        numbers = (recipe["x"], recipe["y"], recipe["alpha"], tone["low"], tone["high"])
        if not all(type(number) is int for number in numbers) or min(numbers[:2]) < 0:
            raise ValueError("the recipe holds something that is no position")
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
