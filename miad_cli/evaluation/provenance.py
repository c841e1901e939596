"""How figures came about: models, libraries and settings, as a report names them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

from miad_cli.evaluation.findings import ModelFacts
from miad_cli.evaluation.protocols.material import Material
from miad_cli.profiles import Profile

LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "pydicom", "pillow",
             "SimpleITK", "opencv-python-headless", "onnx2fx")  # fmt: skip


def model_facts(material: Material, left_out: Sequence[tuple[str, str]]) -> Iterator[ModelFacts]:
    """Every model that took part, and what it was there for."""
    bank = material.bank
    parts = {one.manifest.name: "attacked and tested" for one in bank.surrogates}
    eye = bank.attention.manifest.name
    parts[eye] = parts[eye] + ", attention" if eye in parts else "attention"
    skipped = {name for name, _ in left_out}
    for one in bank.removers:
        parts[one.manifest.name] = "δ" if "removal" in skipped else "δ, removal"
    every = [*bank.surrogates, bank.attention, *bank.removers]
    if bank.segmentation:
        every.append(bank.segmentation)
        parts[bank.segmentation.manifest.name] = "lesions"
    for model in {one.manifest.name: one for one in every}.values():
        facts = model.manifest
        licences = ", ".join(dict.fromkeys(one.licence for one in facts.data))
        yield ModelFacts(
            facts.name, facts.family, facts.role, facts.sha256, licences, parts[facts.name]
        )


def libraries() -> dict[str, str]:
    """Versions of what figures depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def settings_facts(
    profile: Profile, limit: int, split: str
) -> dict[str, str | int | float | bool | None]:
    """Every number of the resolved profile; models that were named by a path, by its end only."""
    facts: dict[str, str | int | float | bool | None] = {"limit": limit}
    if split:
        facts["split"] = split
    for table in ("models", "lesions", "logo", "search", "perturbation"):
        for name, value in getattr(profile, table).model_dump(mode="json").items():
            listed = isinstance(value, list | tuple)
            shown = ", ".join(Path(one).name for one in value) if listed else value
            facts[f"{table}.{name}"] = shown
    return facts
