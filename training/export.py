"""Write a trained network as ``model.onnx`` with its manifest: ``python -m training.export``."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from training.architectures import FAMILIES, IMAGENET_MEAN, IMAGENET_STD, Network
from training.check import (
    TOLERANCE,
    Measured,
    converted,
    import_in_torch,
    measure,
    run_onnx,
    session,
)
from training.data import SOURCES, data_root, load_split
from training.removal import beside, measure_removal
from training.removers import REMOVERS
from training.runs import SMALLEST_HALF, restore
from training.segmentation import measure_segmentation
from training.segmenters import LABELS, SEGMENTERS, UNet
from training.train import Recipe

OPSET = 18
HELD_OUT = Recipe.held_out
GRADIENT_TOLERANCE = 1e-2
COMPARED = ("converted", "input gradient", "cam gradient")
# What each kind of network is trained by, and its role in a manifest.
SCRIPTS = {
    "classifier": "train --family",
    "remover": "train_remover --remover",
    "segmenter": "train_segmenter --segmenter",
}
ROLES = {"classifier": "classifier", "remover": "removal", "segmenter": "segmentation"}


@dataclass(frozen=True)
class Trained:
    """A network with folded, rounded weights, in eval mode, and what made it.

    kind: "classifier", "remover" or "segmenter". labels: per task, for classifiers alone.
    """

    kind: str
    network: nn.Module
    recipe: dict[str, Any]
    labels: dict[str, list[str]]
    progress: dict[str, Any]
    hardware: str

    @property
    def family(self) -> str:
        """The name of the architecture."""
        name: str = self.recipe["family" if self.kind == "classifier" else self.kind]
        return name

    @property
    def side(self) -> int:
        """Side of the file's input, pixels."""
        side = self.recipe["picture_side"] if self.kind == "remover" else self.recipe["sides"][-1]
        return int(side)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that its input (0..1) is normalised with."""
        if self.kind == "classifier":
            family = FAMILIES[self.family]
            return family.mean, family.std
        return (IMAGENET_MEAN, IMAGENET_STD) if self.kind == "segmenter" else ((0.0,), (1.0,))


class Exported(nn.Module):
    """A network with its outputs in the order and under the names of the file."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.answers = answers_of(network)
        inner = ("features", "cam") if isinstance(network, Network) else ()
        self.names = (*self.answers, *inner)

    def forward(self, model_input: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 3, rows, columns) to the tensors called ``names``."""
        outputs = self.network(model_input)
        if isinstance(self.network, UNet):
            return (outputs,)
        if isinstance(self.network, Network):
            return (*outputs.logits.values(), outputs.features, outputs.cam)
        return (outputs.image, outputs.mask)


def answers_of(network: nn.Module) -> tuple[str, ...]:
    """The names of what a network is asked for."""
    if isinstance(network, Network):
        return tuple(network.heads)
    return ("mask",) if isinstance(network, UNet) else ("image", "mask")


def load_trained(path: Path) -> Trained:
    """Read ``best.pt`` or ``last.pt`` of a run; fold its norms, round its weights to float16."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    kind, recipe = stored.get("kind", "classifier"), stored["recipe"]
    network: nn.Module
    if kind == "classifier":
        network = Network(FAMILIES[recipe["family"]], stored["labels"])
    elif kind == "segmenter":
        network = SEGMENTERS[recipe["segmenter"]]()
    else:
        network = REMOVERS[recipe["remover"]]()
    restore(network, stored)
    labels = stored.get("labels", {})
    return Trained(kind, network, recipe, labels, stored["progress"], stored["hardware"])


def to_onnx(network: nn.Module, side: int) -> onnx.ModelProto:
    """Trace ``network`` into a model with a dynamic batch and float16 weights."""
    exported = Exported(network).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            exported,
            (torch.zeros(2, 3, side, side),),
            str(path),
            input_names=["input"],
            output_names=list(exported.names),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )
        model = onnx.load(path)
    _strip(model)
    store_half(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _strip(model: onnx.ModelProto) -> None:
    # The exporter records source lines and shapes of every node: of no use, and not ours to ship.
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")
    for weights in model.graph.initializer:
        weights.ClearField("doc_string")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")


def store_half(model: onnx.ModelProto) -> None:
    """Store large float32 initialisers as float16 with a Cast to float32 behind each, in place."""
    casts = []
    for weights in model.graph.initializer:
        values = numpy_helper.to_array(weights)
        if weights.data_type != TensorProto.FLOAT or values.size < SMALLEST_HALF:
            continue
        name = weights.name
        weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def check_parity(
    network: nn.Module, path: Path, side: int, seed: int = 0, batches: Sequence[int] = (1, 16)
) -> dict[str, float]:
    """Compare the file with ``network``: the largest differences, by name.

    Outputs by ONNX Runtime at each batch size, then outputs, input gradient and (classifiers)
    Grad-CAM gradient by the torch conversion of the file.

    Raises:
        ValueError: a difference of outputs exceeds 1e-3 of the largest value, or one of gradients
            1e-2 of their length.
    """
    rng = np.random.default_rng(seed)
    runner = session(path)
    exported = Exported(network).eval()
    found: dict[str, float] = {}

    def draw(count: int) -> np.ndarray:
        # Removers take pictures in 0..1, the others normalised ones.
        if isinstance(network, Network | UNet):
            return rng.standard_normal((count, 3, side, side), np.float32)
        return rng.random((count, 3, side, side), np.float32)

    for count in batches:
        probe = draw(count)
        with torch.no_grad():
            wanted = exported(torch.from_numpy(probe))
        for name, value in zip(exported.names, wanted, strict=True):
            got = run_onnx(runner, probe)[name]
            found[f"{name}, batch {count}"] = relative_difference(got, value.numpy())
    module, names = import_in_torch(path)
    probe = draw(2)
    for output in exported.answers:
        in_file = converted(module, names, output, probe)
        in_torch = converted(exported, exported.names, output, probe)
        for part, got, value in zip(COMPARED, in_file, in_torch, strict=False):
            measure = gradient_difference if "gradient" in part else relative_difference
            found[f"{output}, {part}"] = measure(got, value)
    wrong = {
        name: value
        for name, value in found.items()
        if not value <= (GRADIENT_TOLERANCE if "gradient" in name else TOLERANCE)
    }
    if wrong:
        raise ValueError(f"the exported file differs from the network: {wrong}")
    return found


def gradient_difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Length of the difference as a fraction of the wanted length.

    Where an activation stands exactly at 0 or 6, as it does with weights in float16, ReLU6 and
    its clamp in the file take different slopes, and either is right; so single values may differ.
    """
    return float(np.linalg.norm(got - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))


def relative_difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference as a fraction of the largest wanted magnitude."""
    scale = max(float(np.abs(wanted).max()), 1e-12)
    return float(np.abs(got - wanted).max()) / scale


def train_command(trained: Trained) -> str:
    """The command that repeats the training run; a timed one by the epochs it came to."""
    recipe, progress = trained.recipe, trained.progress
    cycles = progress["cycle_epochs"] if recipe["timed"] else recipe["cycles"]
    command = (
        f"python -m training.{SCRIPTS[trained.kind]} {trained.family}"
        f" --tasks {','.join(recipe['tasks'])}"
        f" --data DIR --out DIR --epochs {_joined(cycles)} --rate {_joined(recipe['rates'])}"
        f" --side {_joined(recipe['sides'])} --batch {recipe['batch']} --seed {recipe['seed']}"
    )
    if trained.kind == "classifier":
        command += f" --decay {recipe['weight_decay']:g}"
        command += f" --focal {recipe['focal']:g}" if recipe["focal"] else ""
        usual = recipe.get("held_out", HELD_OUT) == HELD_OUT
        command += "" if usual else f" --held-out {recipe['held_out']:g}"
    if trained.kind == "remover":
        command += f" --likeness {recipe['likeness']:g}" if recipe.get("likeness") else ""
        command += f" --favoured {','.join(recipe['favoured'])}" if recipe.get("favoured") else ""
    if recipe["init"] != "scratch":
        further = trained.kind == "remover" or recipe.get("further")
        command += " --further FILE" if further else " --init FILE"
    return command


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def manifest(
    name: str, trained: Trained, sha256: str, root: Path, measured: Sequence[Measured]
) -> str:
    """The text of ``manifest.toml``."""
    recipe, side = trained.recipe, trained.side
    mean, std = trained.normalisation
    head: dict[str, Any] = {"schema": 1, "name": name, "family": trained.family}
    head |= {"role": ROLES[trained.kind], "file": "model.onnx", "sha256": sha256}
    tensor: dict[str, Any] = {"tensor": "input", "layout": "NCHW", "rows": side, "columns": side}
    tensor |= {"channels": 3, "range": [0.0, 1.0], "mean": list(mean), "std": list(std)}
    parts = [_lines(head), "[input]\n" + _lines(tensor | {"fit": "pad"})]
    if trained.kind == "classifier":
        for task, labels in trained.labels.items():
            output = {"task": task, "tensor": task, "kind": "logits", "labels": labels}
            parts.append("[[outputs]]\n" + _lines(output))
        parts += ['[features]\ntensor = "features"\n', '[cam]\ntensor = "cam"\n']
    elif trained.kind == "segmenter":
        found = {"kind": "mask", "tensor": "mask", "values": "logits", "labels": LABELS}
        parts.append("[[outputs]]\n" + _lines(found))
    else:
        parts += [
            "[[outputs]]\n" + _lines({"kind": kind, "tensor": kind}) for kind in ("image", "mask")
        ]
    parts += ["[[data]]\n" + _lines(entry) for entry in data_entries(root, recipe["tasks"])]
    parts += ["[[accuracy]]\n" + _lines(figures.entry(name)) for figures in measured]
    made = {
        "command": train_command(trained),
        "init": recipe["init"],
        "epochs": round(sum(trained.progress["cycle_epochs"])),
    }
    made |= {"seconds": round(trained.progress["seconds"]), "hardware": trained.hardware}
    parts.append("[made]\n" + _lines(made | {"seed": recipe["seed"]}))
    return "\n".join(parts)


def data_entries(root: Path, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """One entry for every public data set that the network has learned from."""
    entries = []
    for task in tasks:
        images = load_split(root, task, "train", 8)
        for source in SOURCES[task]:
            own = [images.labels.index(label) for label in source.labels]
            count = int(np.isin(images.targets, own).sum())
            entry: dict[str, Any] = {"task": task, "name": source.name}
            entries.append(entry | {"licence": source.licence, "images": count})
    return entries


def _lines(entries: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in entries.items())


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # numbers and strings are written as in JSON


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt of a run")
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    parser.add_argument(
        "--classifiers",
        type=Path,
        nargs="*",
        help="a remover is measured with these models' accuracy (default: those beside --out)",
    )
    parser.add_argument("--limit", type=int, help="measure a remover on so many pictures a task")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Export, compare with torch, measure, and write the manifest."""
    given = arguments().parse_args(argv)
    root = data_root(given.data)
    trained = load_trained(given.checkpoint)
    given.out.mkdir(parents=True, exist_ok=True)
    path: Path = given.out / "model.onnx"
    path.write_bytes(to_onnx(trained.network, trained.side).SerializeToString())
    for name, difference in check_parity(trained.network, path, trained.side).items():
        print(f"{name}: {difference:.1e}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    measured: list[Measured] = []
    for task in trained.recipe["tasks"]:
        outlined = trained.kind == "segmenter"
        images = load_split(root, task, "test", trained.side, masked=outlined)
        if outlined:
            measured.append(measure_segmentation(path, task, images, *trained.normalisation))
        elif trained.kind == "classifier":
            measured.append(measure(path, task, images, *trained.normalisation))
        else:
            judges = given.classifiers or beside(given.out, task)
            measured.append(measure_removal(path, task, images, judges, given.limit))
        print(measured[-1])
    text = manifest(given.out.name, trained, sha256, root, measured)
    (given.out / "manifest.toml").write_text(text, encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, epoch {trained.progress['best_epoch']}")


if __name__ == "__main__":
    main()
