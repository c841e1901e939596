"""A made-up evaluation for the tests of the report: drawn pictures, figures of a seeded generator.

Nothing in it was measured.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from miad_cli.evaluation.findings import (
    Bar,
    Bars,
    Beside,
    Column,
    Curve,
    Curves,
    DataFacts,
    Findings,
    Headline,
    LabelsFrom,
    Meta,
    ModelFacts,
    Removed,
    Sample,
    Summary,
    Table,
)
from miad_cli.evaluation.intervals import Estimate

MODELS = ("resnet", "vgg", "inception", "mobilenet-v3", "densenet", "vit")
SEARCHES = (("random", 0.843), ("he", 0.3862), ("he-sit", 0.3182), ("guided", None))
CLASSES = ("glioma", "meningioma", "pituitary tumour", "no tumour")
N = 25


def make_findings(
    *,
    samples: int = 2,
    size: int = 96,
    labels_from: LabelsFrom = "given",
    data_name: str = "brain MRI, test split",
    label: str = "glioma",
) -> Findings:
    """Every kind of table, plot and picture; `label` is the class that the samples carry."""
    random = np.random.default_rng(2023)
    seen = {search: [_share(random, at) for _ in MODELS] for search, at in _levels(random)}
    unseen = [_share(random, 0.55) for _ in MODELS]
    mean = Estimate(0.56, 0.48, 0.64, N * len(MODELS))
    return Findings(
        meta=make_meta(labels_from, data_name),
        summary=_summary(mean),
        tables=(_seen_table(seen), _unseen_table(unseen), _removal_table(random), _robust(random)),
        curves=(_curves(random),),
        bars=(_seen_bars(seen), _unseen_bars(unseen)),
        samples=tuple(make_sample(random, place, size, label) for place in range(1, samples + 1)),
        values={"unseen.accuracy": mean, "seen.he-sit.accuracy": seen["he-sit"][0], "auc": 0.64},
    )


def make_meta(labels_from: LabelsFrom = "given", data_name: str = "brain MRI, test split") -> Meta:
    return Meta(
        version="0.0.0",
        created=datetime(2026, 3, 14, 15, 9, tzinfo=UTC),
        seed=2023,
        command="miad evaluate DATASET --protocol all --limit 25 --report out.html",
        data=DataFacts(
            data_name, 758, 25, tuple(zip(CLASSES, (7, 6, 6, 6), strict=True)), labels_from
        ),
        provider="CPUExecutionProvider",
        device="CPU, 2 threads",
        profile="brain-mri",
        profile_digest="ab12" * 16,
        models=(
            *(
                ModelFacts(name, name.split("-")[0], "classifier", sha * 32, "CC BY 4.0", "tested")
                for name, sha in zip(MODELS, ("0a", "1b", "2c", "3d", "4e", "5f"), strict=True)
            ),
            ModelFacts("wdnet-slim", "wdnet", "removal", "ee" * 32, "Apache-2.0", "δ and removal"),
        ),
        libraries={"numpy": "2.4.6", "onnxruntime": "1.30.0", "torch": "2.13.0"},
        settings={"sl": 2, "N_p": 15, "N_g": 2, "δ": "disrupt", "ε": 8 / 255, "coherent": True},
        seconds=4210.0,
    )


def _summary(mean: Estimate) -> Summary:
    return Summary(
        sentences=(
            "On models that the search did not know, 56 of 100 diagnoses stood after protection; "
            "before it, all did.",
            "Every picture came back byte for byte with the key.",
        ),
        headlines=(
            Headline(
                "Diagnoses left, unknown models",
                mean,
                "How often a model that had no part in the search still diagnoses rightly.",
                0.4583,
                "lower",
                as_share=True,
            ),
            Headline(
                "Diagnoses left after removal",
                Estimate(0.61, 0.5, 0.71, 50),
                "The same after a removal network worked on the picture.",
                0.3859,
                "lower",
                as_share=True,
            ),
            Headline("Restored exactly", "25 of 25", "Files identical to their originals."),
            Headline(
                "Likeness to the original",
                Estimate(0.912, 0.9, 0.921, N),
                "SSIM outside the logo; 1 is identical.",
                0.8792,
                "higher",
                digits=3,
            ),
        ),
        limits=(
            "Models that nobody tested may do better or worse.",
            "Somebody who draws a mask and repaints the logo can undo a small one.",
        ),
    )


def _levels(random: np.random.Generator) -> list[tuple[str, float]]:
    return [(search, at or float(random.uniform(0.2, 0.3))) for search, at in SEARCHES]


def _share(random: np.random.Generator, at: float) -> Estimate:
    value = float(np.clip(random.normal(at, 0.08), 0.04, 0.98))
    half = 1.96 * float(np.sqrt(value * (1 - value) / N))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), N)


def _seen_table(seen: dict[str, list[Estimate]]) -> Table:
    papers = dict(SEARCHES)
    rows = tuple(
        (
            model,
            search,
            Beside(seen[search][place], papers[search]),
            Estimate(0.6 + place / 40, 0.55 + place / 40, 0.7 + place / 40, N),
            34 + 17 * place,
        )
        for place, model in enumerate(MODELS)
        for search in seen
    )
    return Table(
        "seen",
        "seen",
        "Each model attacked by itself",
        "Accuracy of the diagnosis after the logo was placed; before it, 1.00.",
        (
            Column("model", "model"),
            Column("search", "search"),
            Column("accuracy", "accuracy after", "lower"),
            Column("auc", "AUC after", "lower", 3),
            Column("queries", "inferences a picture"),
        ),
        rows,
        "The paper's figures are means over its models and data sets.",
    )


def _unseen_table(unseen: list[Estimate]) -> Table:
    rows = tuple(
        (model, Beside(one, 0.5673), None if place == 2 else 0.7 + place / 100)
        for place, (model, one) in enumerate(zip(MODELS, unseen, strict=True))
    )
    return Table(
        "unseen",
        "unseen",
        "One family left out",
        "The search asks five families; the sixth is tested.",
        (
            Column("model", "left out"),
            Column("accuracy", "accuracy after", "lower"),
            Column("source", "from one model alone", "lower"),
        ),
        rows,
    )


def _removal_table(random: np.random.Generator) -> Table:
    rows = []
    for network in ("wdnet-slim", "split-slim"):
        for kind, psnr in (("nothing", 47.8), ("random noise", 44.0), ("δ_D", 29.6), ("δ_I", 45.1)):
            value = float(random.normal(psnr, 0.5))
            rows.append(
                (network, kind, Beside(Estimate(value, value - 1, value + 1, N), psnr), 0.9)
            )
    rows.append(("none", "nothing", Beside(float("inf"), None), 1.0))
    return Table(
        "removal-psnr",
        "removal",
        "What removal networks make of it",
        "Their output against the original.",
        (
            Column("network", "network"),
            Column("delta", "δ"),
            Column("psnr", "PSNR, dB", "lower", 1),
            Column("ssim", "SSIM", "lower", 3),
        ),
        tuple(rows),
    )


def _robust(random: np.random.Generator) -> Table:
    attacks = ("JPEG 95", "JPEG 50", "resize ½", "median 5", "Telea, true mask", "window change")
    rows = tuple(
        (
            attack,
            _share(random, 0.6),
            -3.5 if place == 0 else float(place),
            Estimate(0.5, 0.5, 0.5, 1, "none"),
        )
        for place, attack in enumerate(attacks)
    )
    return Table(
        "robust",
        "robust",
        "Counterattacks",
        "Accuracy after somebody tried to undo the protection.",
        (
            Column("attack", "attack"),
            Column("accuracy", "accuracy after", "lower"),
            Column("change", "change, points", None, 1),
            Column("single", "one picture"),
        ),
        rows,
    )


def _curves(random: np.random.Generator) -> Curves:
    curves = []
    for name, power, auc, paper in (
        ("clean", 9.0, 0.97, None),
        ("random", 4.0, 0.86, None),
        ("he-sit", 1.6, 0.63, 0.6198),
    ):
        x = np.sort(np.concatenate([[0.0, 1.0], random.random(300)]))
        y = 1 - (1 - x) ** power
        curves.append(Curve(name, x, y, Estimate(auc, auc - 0.04, min(1, auc + 0.04), N), paper))
    return Curves(
        "roc",
        "seen",
        "ROC, micro-average over classes",
        "One class against the rest.",
        tuple(curves),
    )


def _seen_bars(seen: dict[str, list[Estimate]]) -> Bars:
    papers = dict(SEARCHES)
    groups = tuple(
        (model, tuple(Bar(search, seen[search][place], papers[search]) for search in seen))
        for place, model in enumerate(MODELS[:4])
    )
    return Bars(
        "seen-bars",
        "seen",
        "Accuracy after protection",
        "By model and search.",
        groups,
        "accuracy",
        better="lower",
    )


def _unseen_bars(unseen: list[Estimate]) -> Bars:
    bars = tuple(Bar(model, one, 0.5673) for model, one in zip(MODELS, unseen, strict=True))
    missing = Bar("a model with quite a long name", None)
    return Bars(
        "unseen-bars",
        "unseen",
        "Accuracy of the model left out",
        "",
        (("", (*bars, missing)),),
        "accuracy",
        better="lower",
    )


# --- Pictures ---------------------------------------------------------------------------------


def make_sample(random: np.random.Generator, place: int, size: int, label: str) -> Sample:
    """A head with a lesion, drawn; a logo upon it, and what follows."""
    original = _head(random, size)
    x, y, width, height = size // 10, size // 12, size // 2, size // 4
    protected = original.astype(np.float64)
    protected[y : y + height, x : x + width] *= 0.4
    protected[y : y + height, x : x + width] += 0.6 * _logo(width, height)
    protected = np.round(protected).astype(np.uint8)
    noise = random.integers(-8, 9, original.shape)
    return Sample(
        caption=f"Picture {place}, {label}",
        original=original,
        protected=protected,
        recovered=original.copy(),
        heat=_heat(size),
        boxes=((int(size * 0.55), int(size * 0.5), size // 5, size // 6),),
        logo=(x, y, width, height),
        delta=np.clip(128 + 12 * noise, 0, 255).astype(np.uint8),
        delta_gain=12,
        removed=(
            Removed("wdnet-slim", _blurred(protected), "PSNR 29.6 dB, SSIM 0.47"),
            Removed("split-slim", _blurred(original), "PSNR 33.0 dB, SSIM 0.77"),
        ),
        facts=(
            ("resnet", f"{label} → no tumour"),
            ("vit", f"{label} → {label}"),
            ("SSIM outside the logo", "0.94"),
        ),
    )


def _head(random: np.random.Generator, size: int) -> np.ndarray:
    picture = Image.new("L", (size, size), 4)
    pen = ImageDraw.Draw(picture)
    for inset, grey in ((0.1, 170), (0.13, 40), (0.16, 105)):
        pen.ellipse(
            (size * inset, size * inset * 0.7, size * (1 - inset), size * (1 - inset * 0.7)),
            fill=grey,
        )
    pen.ellipse((size * 0.58, size * 0.52, size * 0.72, size * 0.64), fill=190)
    pen.ellipse((size * 0.36, size * 0.4, size * 0.46, size * 0.62), fill=50)
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(size / 90))).astype(np.float64)
    texture = np.asarray(
        Image.fromarray(random.integers(0, 256, (size, size), dtype=np.uint8)).filter(
            ImageFilter.GaussianBlur(size / 120)
        )
    )
    grainy = (
        soft
        + (texture.astype(np.float64) - 128) * (soft > 20) * 0.5
        + random.normal(0, 2, soft.shape)
    )
    return np.clip(grainy, 0, 255).astype(np.uint8)


def _logo(width: int, height: int) -> np.ndarray:
    logo = Image.new("L", (width, height), 250)
    pen = ImageDraw.Draw(logo)
    pen.rectangle((width * 0.06, height * 0.15, width * 0.4, height * 0.85), fill=70)
    pen.rectangle((width * 0.2, height * 0.25, width * 0.26, height * 0.75), fill=250)
    pen.rectangle((width * 0.1, height * 0.44, width * 0.36, height * 0.56), fill=250)
    pen.rectangle((width * 0.48, height * 0.3, width * 0.94, height * 0.42), fill=70)
    pen.rectangle((width * 0.48, height * 0.56, width * 0.84, height * 0.68), fill=70)
    return np.asarray(logo)


def _heat(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    heat = np.exp(-((x - 0.64) ** 2 + (y - 0.57) ** 2) / 0.02)
    return np.round(255 * heat).astype(np.uint8)


def _blurred(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5)))
