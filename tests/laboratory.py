"""What tests of the evaluation work on: two tiny models of different families that tell dark
pictures from bright ones, two removal networks, and a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import build_png, opaque_logo, write_convolutional_model
from strangers import write_remover

FAMILIES = {"alpha": 0.80, "beta": 0.90}
"""Families, and what each model's bias makes of grey: about half of the bias is its threshold."""

NETWORKS = {"copier": 1.0, "darkener": 0.5}
"""Removal networks, and what they multiply pictures by."""


def write_models(root: Path, networks: dict[str, float] = NETWORKS) -> Path:
    """A folder of models like the shipped one; all know the task `toy`."""
    for family, bias in FAMILIES.items():
        folder = root / f"{family}-net"
        write_convolutional_model(folder, bias=bias)
        manifest = folder / "manifest.toml"
        text = manifest.read_text(encoding="utf-8")
        manifest.write_text(
            text.replace('family = "toy"', f'family = "{family}"'), encoding="utf-8"
        )
    for name, scale in networks.items():
        write_remover(root / name, scale, side=16)
    return root


def write_pictures(root: Path, of_each: int = 3, side: int = 24) -> Path:
    """Dark pictures in `no`, bright ones in `yes`; each with a bright spot."""
    generator = np.random.default_rng(5)
    for label, level in (("no", 113), ("yes", 150)):
        (root / label).mkdir(parents=True)
        for number in range(of_each):
            pixels = generator.normal(level, 12, (side, side, 1))
            pixels[14:19, 13:18] += 60
            content = build_png(np.clip(pixels, 0, 255).astype(np.uint8))
            (root / label / f"{number}.png").write_bytes(content)
    return root


def write_logo(path: Path) -> Path:
    """White with a dark bar: it makes dark pictures bright."""
    logo = opaque_logo(10, 18, (255, 255, 255))
    logo[4:6, 3:15, :3] = 20
    path.write_bytes(build_png(logo))
    return path
