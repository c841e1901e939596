"""Each model attacked by itself (MIAD-MARK Fig. 2b): Random, HE, HE-SIT.

Only pictures that the model classifies right are attacked, so the accuracy before is 1.0; the
label attacked is the ground truth. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from miad_cli.decisions import settings_of
from miad_cli.demo import draw_logo
from miad_cli.imaging.raster import read_raster
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.session import Device
from miad_cli.profiles import named_profile
from miad_cli.watermark.ensemble import Ensemble
from miad_cli.watermark.logo import Bytes, load_logo
from miad_cli.watermark.marking import Marking, Settings, mark_picture

METHODS = ("random", "he", "he-sit")


@dataclass(frozen=True)
class Example:
    """A test picture; `lesion` is centre x, centre y, width, height as fractions, or None."""

    path: Path
    label: str
    lesion: tuple[float, float, float, float] | None


def main() -> None:
    options = _options()
    profile = named_profile(options.profile)
    whole = load_bank(profile.models.task, (), profile.models.attention, Device())
    logo = _logo(options.logo)
    examples = list(_examples(options.data, options.seed))
    done = _journal(options.journal)
    for surrogate in whole.surrogates:
        bank = replace(whole, surrogates=(surrogate,))
        right = _classified_right(bank, examples, options.n)
        for method in METHODS:
            settings = replace(settings_of(profile), method=method, perturbing=None)
            for example in right:
                key = f"{surrogate.manifest.name} {method} {example.path.name}"
                if key in done:
                    continue
                done[key] = _attack(bank, example, logo, settings, options.seed)
                _append(options.journal, key, done[key])
    print(_table(done))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.csv")
    parser.add_argument("--profile", default="brain-mri")
    parser.add_argument("--logo", type=Path, help="default: the demonstration's")
    parser.add_argument("--n", type=int, default=100, help="pictures per model")
    parser.add_argument("--seed", type=int, default=2023)
    parser.add_argument("--journal", type=Path, default=Path("seen.jsonl"))
    return parser.parse_args()


def _logo(path: Path | None) -> Bytes:
    if path is not None:
        return load_logo(path)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "logo.png"
        draw_logo(drawn)
        return load_logo(drawn)


def _examples(data: Path, seed: int) -> Iterator[Example]:
    """The test split in a random order, the same for every model and method."""
    with (data / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    for index in np.random.default_rng(seed).permutation(len(rows)):
        row = rows[index]
        numbers = tuple(float(part) for part in (row.get("box") or "").split())
        lesion = numbers if len(numbers) == 4 else None
        yield Example(data / row["path"], row["label"], lesion)


def _classified_right(bank: Bank, examples: list[Example], count: int) -> list[Example]:
    right: list[Example] = []
    for example in examples:
        if len(right) == count:
            break
        image = read_raster(example.path.read_bytes()).image
        if Ensemble(bank, image).clean.label == _label(bank, example):
            right.append(example)
    return right


def _label(bank: Bank, example: Example) -> int:
    output = bank.surrogates[0].manifest.output_for(bank.task or "")
    if output is None:
        raise SystemExit("the profile names a task that no model answers")
    return output.labels.index(example.label)


def _attack(
    bank: Bank, example: Example, logo: Bytes, settings: Settings, seed: int
) -> dict[str, Any]:
    content = example.path.read_bytes()
    own_seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    generator = np.random.default_rng([seed, own_seed])
    image = read_raster(content).image
    started = time.perf_counter()
    marking = mark_picture(image, bank, logo, settings, generator, _label(bank, example))
    return {
        "fooled": bool(marking.fooled),
        "queries": marking.decision.queries,
        "seconds": time.perf_counter() - started,
        "alpha": marking.mark.alpha,
        "divisor": marking.decision.divisor,
        "covered": _covered(marking, image.rows, image.columns, example.lesion),
    }


def _covered(
    marking: Marking, rows: int, columns: int, lesion: tuple[float, ...] | None
) -> float | None:
    """Share of the annotated box's pixels under a visible pixel of the logo."""
    if lesion is None:
        return None
    centre_x, centre_y, width, height = lesion
    left, right = (centre_x - width / 2) * columns, (centre_x + width / 2) * columns
    top, bottom = (centre_y - height / 2) * rows, (centre_y + height / 2) * rows
    drawn = np.zeros((rows, columns), bool)
    drawn[marking.mark.region] = marking.mark.logo[..., 3] > 0
    box = drawn[round(top) : round(bottom), round(left) : round(right)]
    return float(box.mean()) if box.size else None


def _journal(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["key"]: line["result"] for line in lines}


def _append(path: Path, key: str, result: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"key": key, "result": result}) + "\n")


def _table(done: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| model | search | pictures | accuracy after (95 %) | queries | s a picture "
        "| tumour box covered | pictures with any cover |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, result in done.items():
        model, method, _ = key.split(" ", 2)
        groups.setdefault((model, method), []).append(result)
    for (model, method), results in groups.items():
        kept = np.array([not one["fooled"] for one in results], float)
        covered = np.array([one["covered"] for one in results if one["covered"] is not None])
        low, high = _bootstrap(kept)
        lines.append(
            f"| {model} | {method} | {len(results)} | {kept.mean():.2f} ({low:.2f}–{high:.2f}) "
            f"| {np.mean([one['queries'] for one in results]):.0f} "
            f"| {np.mean([one['seconds'] for one in results]):.2f} "
            f"| {covered.mean():.3f} | {(covered > 0).mean():.2f} of {covered.size} |"
        )
    return "\n".join(lines)


def _bootstrap(values: np.ndarray, rounds: int = 10_000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean."""
    generator = np.random.default_rng(0)
    means = generator.choice(values, (rounds, len(values))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


if __name__ == "__main__":
    main()
