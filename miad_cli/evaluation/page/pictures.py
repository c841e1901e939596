"""Sample pictures: the three to compare, attention with its boxes, δ, and what was removed."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from PIL import Image

from miad_cli.evaluation.findings import Bytes, Rectangle, Removed, Sample
from miad_cli.evaluation.page.markup import esc

LONGEST = 512
"""Pixels of a picture's longer side on the page; larger ones are made smaller."""

_STEPS = np.array([0, 85, 170, 255])
_COLOURS = np.array([[20, 12, 60], [140, 40, 120], [240, 100, 60], [255, 240, 150]])
_STRONGEST = 0.75
"""How much of the picture the highest attention hides."""


def sample_html(sample: Sample, place: int) -> str:
    """One sample, the `place`-th, as an article."""
    views = [
        _attention(sample),
        _delta(sample),
        *(_removed(sample, one) for one in sample.removed),
    ]
    facts = "".join(
        f"<div><dt>{esc(name)}</dt><dd>{esc(text)}</dd></div>" for name, text in sample.facts
    )
    return (
        f'<article class="sample" id="sample-{place}"><h3>{esc(sample.caption)}</h3>'
        f"{_compare(sample, place)}"
        + (f'<dl class="facts">{facts}</dl>' if facts else "")
        + f'<div class="views">{"".join(views)}</div></article>'
    )


def _compare(sample: Sample, place: int) -> str:
    """The pictures to compare, side by side; script.js lays them over each other."""
    layers = [("original", sample.original, ""), ("protected", sample.protected, "")]
    if sample.recovered is not None:
        same = np.array_equal(sample.recovered, sample.original)
        said = "every pixel as in the original" if same else "not the same as the original"
        layers.append(("recovered", sample.recovered, said))
    figures = "".join(
        f'<figure class="layer" data-name="{name}" data-said="{said}">'
        f"{picture(pixels, f'{sample.caption}: {name}')}"
        f"<figcaption>{name}{f': {said}' if said else ''}</figcaption></figure>"
        for name, pixels, said in layers
    )
    names = [name for name, _, _ in layers]
    stops = "".join(
        f'<button type="button" data-stop="{100 * step}">{name}</button>'
        for step, name in enumerate(names)
    )
    title = f"Compare {', '.join(names[:-1])} and {names[-1]} of {sample.caption}"
    return (
        f'<div class="compare"><div class="stack">{figures}</div>'
        f'<div class="control"><label for="slide-{place}">{esc(title)}</label>'
        f'<input type="range" id="slide-{place}" min="0" max="{100 * (len(names) - 1)}" step="5" '
        f'value="100" autocomplete="off"><div class="stops">{stops}</div>'
        f'<output for="slide-{place}"></output></div></div>'
    )


def _attention(sample: Sample) -> str:
    if sample.heat is None and not sample.boxes and sample.logo is None:
        return ""
    base = _fitting(sample.original)
    shown = base if sample.heat is None else _heated(base, _fitting(sample.heat))
    what = "lesion boxes" if sample.heat is None else "attention, lesion boxes"
    boxes = len(sample.boxes)
    alt = f"{sample.caption}: {what} ({boxes}) and the place of the logo"
    rows, columns = sample.original.shape[:2]
    drawn = "".join(_rectangle(box, "box") for box in sample.boxes)
    drawn += _rectangle(sample.logo, "logo") if sample.logo else ""
    legend = "solid: kept free; dashed: the logo"
    if sample.heat is not None:
        legend = f"bright: what the models attend to; {legend}"
    return (
        f'<figure><div class="marked">{picture(shown, alt, few_colours=True)}'
        f'<svg class="marks" viewBox="0 0 {columns} {rows}" aria-hidden="true">{drawn}</svg></div>'
        f"<figcaption>Where the logo goes <span>{legend}</span></figcaption></figure>"
    )


def _rectangle(box: Rectangle, kind: str) -> str:
    x, y, width, height = (int(one) for one in box)
    place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
    return f'<rect class="halo" {place}/><rect class="{kind}" {place}/>'


def _delta(sample: Sample) -> str:
    if sample.delta is None:
        return ""
    gain = int(sample.delta_gain)
    image = picture(sample.delta, f"{sample.caption}: δ, amplified {gain} times")
    caption = f"δ <span>amplified {gain} ×; mid grey is no change</span>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _removed(sample: Sample, removed: Removed) -> str:
    image = picture(removed.pixels, f"{sample.caption}: what {removed.name} made of it")
    note = f" <span>{esc(removed.note)}</span>" if removed.note else ""
    caption = f"After {esc(removed.name)}{note}"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


# --- Pixels -----------------------------------------------------------------------------------


def picture(pixels: Bytes, alt: str, *, few_colours: bool = False) -> str:
    """An `img` that holds its picture as a PNG; `few_colours` keeps to 256 of them."""
    shown = Image.fromarray(_plain(_fitting(pixels)))
    width, height = shown.size
    if few_colours and shown.mode == "RGB":
        shown = shown.quantize(256, dither=Image.Dither.NONE)
    stream = BytesIO()
    shown.save(stream, "PNG")
    encoded = b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/png;base64,{encoded}" width="{width}" height="{height}" '
        f'alt="{esc(alt)}">'
    )


def _fitting(pixels: Bytes) -> Bytes:
    """The picture, not larger than it is shown."""
    if max(pixels.shape[:2]) <= LONGEST:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _plain(pixels: Bytes) -> Bytes:
    """(rows, columns) where the three colours are the same throughout."""
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return np.ascontiguousarray(pixels)


def _heated(base: Bytes, heat: Bytes) -> Bytes:
    """Attention over the picture, the stronger the higher; (rows, columns, 3)."""
    colours = np.stack([np.interp(heat, _STEPS, _COLOURS[:, one]) for one in range(3)], axis=-1)
    weight = (heat / 255.0 * _STRONGEST)[..., None]
    below = base[..., None] if base.ndim == 2 else base
    mixed: Bytes = np.round(weight * colours + (1 - weight) * below).astype(np.uint8)
    return mixed
