"""Check shipped models and measure them: ``python -m training.check onnx_models/*/``.

The last thing printed is the table of balanced accuracy by task and model.
"""

from __future__ import annotations

import argparse
import hashlib
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx2fx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from training.data import SUBSETS, TaskImages, data_root, load_split, model_input
from training.segmentation import measure_segmentation

# Largest difference allowed, as a fraction of the largest value.
TOLERANCE = 1e-3
LARGEST_FILE = 10_000_000


class Measured(Protocol):
    """Figures that have an entry in a manifest."""

    def entry(self, name: str) -> dict[str, Any]:
        """The entry in the manifest of model ``name``."""


@dataclass(frozen=True)
class Accuracy:
    """What a model gets right on a split; fractions 0..1.

    subset: the name and value of the accuracy on some classes alone, or nothing.
    """

    task: str
    split: str
    images: int
    accuracy: float
    balanced: float
    subset: tuple[str, float] | None

    def entry(self, name: str) -> dict[str, Any]:
        """The entry in the manifest of model ``name``."""
        entry: dict[str, Any] = {"task": self.task, "split": self.split, "images": self.images}
        entry |= {"accuracy": round(self.accuracy, 4), "balanced_accuracy": round(self.balanced, 4)}
        if self.subset is not None:
            entry[self.subset[0]] = round(self.subset[1], 4)
        return entry | {"command": f"python -m training.check onnx_models/{name} --data DIR"}


def session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model for inference on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_onnx(
    runner: onnxruntime.InferenceSession, batch: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """All outputs by name for normalised images (N, 3, rows, columns) float32."""
    names = [output.name for output in runner.get_outputs()]
    return dict(zip(names, runner.run(names, {"input": batch}), strict=True))


def predict(
    path: Path, task: str, images: TaskImages, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Logits (n, labels) float32 of stored pictures, by ONNX Runtime."""
    runner = session(path)
    return np.concatenate(
        [
            runner.run([task], {"input": model_input(images.images[i : i + 16], mean, std)})[0]
            for i in range(0, len(images.targets), 16)
        ]
    )


def confusion(targets: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Counts (labels, labels): rows are the truth, columns the predictions."""
    counts = np.zeros((logits.shape[1],) * 2, np.int64)
    np.add.at(counts, (targets, logits.argmax(1)), 1)
    return counts


def measure(
    path: Path, task: str, images: TaskImages, mean: Sequence[float], std: Sequence[float]
) -> Accuracy:
    """Measure a model file on the test pictures of a task."""
    counts = confusion(images.targets, predict(path, task, images, mean, std))
    subset = None
    if task in SUBSETS:
        key, names = SUBSETS[task]
        rows = [images.labels.index(name) for name in names]
        # The columns stay whole: a tumour taken for no tumour is wrong.
        subset = (key, float(counts[rows, rows].sum() / counts[rows].sum()))
    return Accuracy(
        task,
        "test",
        len(images.targets),
        float(np.trace(counts) / counts.sum()),
        float(np.mean(np.diag(counts) / counts.sum(axis=1))),
        subset,
    )


def import_in_torch(path: Path) -> tuple[nn.Module, list[str]]:
    """Convert a file into a torch module; the names of the outputs it returns, in order."""
    model = onnx.load(path)
    return onnx2fx.convert(model), [output.name for output in model.graph.output]


def converted(
    module: nn.Module, names: Sequence[str], output: str, batch: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """One output and its gradients by a module that returns the outputs ``names``.

    batch: (N, 3, rows, columns) float32. Returns the output and the gradient by the input of the
    sum over pictures of its largest value (a class's logit) or, for pictures and masks, of half
    its squares; where there is a ``cam``, also the gradient by that (whose mean over rows and
    columns is Grad-CAM's weight).
    """
    x = torch.from_numpy(batch).requires_grad_()
    answers = module(x)
    # The conversion of a file with one output gives it bare.
    answers = answers if isinstance(answers, tuple | list) else (answers,)
    outputs = dict(zip(names, answers, strict=True))
    value = outputs[output]
    target = value.amax(1).sum() if value.ndim == 2 else value.square().sum() / 2
    if "cam" not in outputs:
        (by_input,) = torch.autograd.grad(target, [x])
        return value.detach().numpy(), by_input.numpy()
    by_input, by_cam = torch.autograd.grad(target, [x, outputs["cam"]])
    return value.detach().numpy(), by_input.numpy(), by_cam.numpy()


def faults(folder: Path, described: dict[str, Any]) -> list[str]:
    """What is wrong with a model's file, in words; empty where nothing is."""
    path = folder / described["file"]
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        return ["SHA-256 does not match"]
    model = onnx.load_from_string(content)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    ops = {node.op_type for node in model.graph.node}
    consumed = {name for node in model.graph.node for name in node.input}
    wanted = {entry["tensor"] for entry in described["outputs"]}
    inner = [described[key]["tensor"] for key in ("features", "cam") if key in described]
    rules = {
        "larger than 10 MB": path.stat().st_size <= LARGEST_FILE,
        "opset is not 17 or 18": opset in (17, 18),
        "a batch normalisation is left": "BatchNormalization" not in ops,
        "the output names differ": {output.name for output in model.graph.output}
        == wanted | set(inner),
        "no logits depend on features or cam": consumed.issuperset(inner),
        "the input is not (dynamic, 3, rows, columns)": _input_shape(model)
        == [0, 3, described["input"]["rows"], described["input"]["columns"]],
    }
    return [fault for fault, kept in rules.items() if not kept]


def _input_shape(model: onnx.ModelProto) -> list[int]:
    return [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]


def conversion_faults(path: Path, outputs: Sequence[str], batch: NDArray[np.float32]) -> list[str]:
    """Compare the torch conversion with ONNX Runtime on ``batch``; what differs, in words."""
    started = time.perf_counter()
    module, names = import_in_torch(path)
    print(f"imported in torch in {time.perf_counter() - started:.2f} s")
    reference = run_onnx(session(path), batch)
    found = []
    for name in outputs:
        value, *gradients = converted(module, names, name, batch)
        if not np.abs(value - reference[name]).max() <= TOLERANCE * np.abs(reference[name]).max():
            found.append(f"{name}: torch and ONNX Runtime differ")
        if not all(np.isfinite(gradient).all() and gradient.any() for gradient in gradients):
            found.append(f"{name}: no gradient")
    return found


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.check", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders under onnx_models/")
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    return parser


def check(folder: Path, root: Path) -> tuple[list[str], dict[str, float]]:
    """Print the figures of one model; returns its faults, and balanced accuracy by task."""
    described = tomllib.loads((folder / "manifest.toml").read_text(encoding="utf-8"))
    path, given = folder / described["file"], described["input"]
    found = faults(folder, described)
    print(f"{described['name']}: {path.stat().st_size / 1e6:.2f} MB")
    if "SHA-256 does not match" in found:
        return found, {}  # whatever that file is, it need not be a model
    if described["role"] == "removal":
        probe = np.random.default_rng(0).random((2, 3, given["rows"], given["columns"]), np.float32)
        outputs = [output["tensor"] for output in described["outputs"]]
        # What it achieves, training.removal measures.
        return found + conversion_faults(path, outputs, probe), {}
    if described["role"] == "segmentation":
        return found + segmentation_faults(path, described, root), {}
    balanced = {}
    for output, stated in zip(described["outputs"], described["accuracy"], strict=True):
        task = output["task"]
        images = load_split(root, task, "test", given["rows"])
        batch = model_input(images.images[:4], given["mean"], given["std"])
        found += conversion_faults(path, [task], batch)
        measured = measure(path, task, images, given["mean"], given["std"])
        balanced[task] = measured.balanced
        found += figure_faults(stated, measured.entry(described["name"]))
    return found, balanced


def segmentation_faults(path: Path, described: dict[str, Any], root: Path) -> list[str]:
    """Print the figures of a segmentation network; what is wrong with it, in words."""
    given, found = described["input"], []
    for stated in described["accuracy"]:
        images = load_split(root, stated["task"], "test", given["rows"], masked=True)
        batch = model_input(images.images[:4], given["mean"], given["std"])
        found += conversion_faults(path, ["mask"], batch)
        figures = measure_segmentation(path, stated["task"], images, given["mean"], given["std"])
        found += figure_faults(stated, figures.entry(described["name"]))
    return found


def figure_faults(stated: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """Print measured figures; in words, that the manifest states others, where it does."""
    print("  ".join(f"{key} {value}" for key, value in entry.items() if key != "command"))
    figures = {key: value for key, value in entry.items() if isinstance(value, float)}
    if all(abs(stated.get(key, np.inf) - value) <= 0.002 for key, value in figures.items()):
        return []
    return [f"{entry['task']}: the manifest states other figures"]


def table(balanced: Mapping[str, Mapping[str, float]]) -> str:
    """Balanced accuracy by task (rows) and model (columns), with the mean over models."""
    models = [name for name, figures in balanced.items() if figures]
    tasks = list(dict.fromkeys(task for name in models for task in balanced[name]))
    lines = ["".join([f"{'balanced':14}", *(f"{name:>14}" for name in models), f"{'mean':>14}"])]
    for task in tasks:
        known = [balanced[name].get(task) for name in models]
        cells = ["-" if value is None else f"{value:.3f}" for value in known]
        mean = float(np.mean([value for value in known if value is not None]))
        lines.append("".join([f"{task:14}", *(f"{c:>14}" for c in cells), f"{mean:14.3f}"]))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Check every folder given; exit 1 where something is wrong."""
    given = arguments().parse_args(argv)
    root = data_root(given.data)
    found, balanced = [], {}
    for folder in given.folders:
        wrong, balanced[folder.name] = check(folder, root)
        found += [f"{folder}: {fault}" for fault in wrong]
    if any(balanced.values()):
        print(table(balanced))
    for fault in found:
        print(fault)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
