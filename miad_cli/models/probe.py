"""Find out what a stranger's model wants and gives: a manifest for an ONNX file.

What can be told from the file or by running it is told so: layout, size, channels, element type,
batch, what the graph does to values itself, which output answers and whether in probabilities.
What nothing tells is asked for; nothing is guessed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from miad_cli.errors import ModelUnusable, UsageError
from miad_cli.models.check import gradients_of
from miad_cli.models.gradients import Differentiable
from miad_cli.models.graph import DTYPES, FLOATS, Graph, exposed
from miad_cli.models.manifest import InputSpec, Manifest, faults_of
from miad_cli.models.session import Device, Engine, Session, planes_of

Float = NDArray[np.float32]
Role = Literal["classifier", "removal", "segmentation"]
Kind = Literal["logits", "probabilities"]

_MAPS = (
    "Conv", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Clip", "HardSwish", "Gelu", "Swish",
    "Mul", "Add", "Sum", "Concat", "BatchNormalization", "MaxPool", "AveragePool",
)  # fmt: skip
"""Operators whose result may be a map that Grad-CAM can look at."""
_WEIGHING = ("Gemm", "MatMul", "Conv")
_DEEPEST = 3
"""How many layers with weights may lie between such a map and the answer; VGG has three."""


@dataclass(frozen=True)
class Wishes:
    """What the user says of a model; None is left to the file.

    `size` is (rows, columns); `outputs` names tensors by what they give: `answer`, `image`, `mask`.
    `cam` may be `none`. `data` is the training data's name, `licence` its licence.
    """

    name: str
    labels: tuple[str, ...] = ()
    role: Role = "classifier"
    task: str | None = None
    family: str = "other"
    layout: Literal["NCHW", "NHWC"] | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    colours: Literal["RGB", "BGR"] = "RGB"
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fit: Literal["pad", "stretch"] = "stretch"
    kind: Kind | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    cam: str | None = None
    features: str | None = None
    data: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Described:
    """A manifest, and what the user should know about how it came to be."""

    manifest: Manifest
    notes: tuple[str, ...]


def describe(content: bytes, wishes: Wishes) -> Described:
    """The manifest of the model in `content`, once it was run.

    Raises:
        ModelUnusable: it cannot be run here, with the reason.
        UsageError: something that only the user knows is missing, or cannot be so.
    """
    _refuse_nonsense(wishes)
    return _Probe(content, wishes).described()


def _refuse_nonsense(wishes: Wishes) -> None:
    """What cannot be meant, whatever the file holds."""
    gives = {
        "classifier": {"answer"},
        "removal": {"image", "mask"},
        "segmentation": {"mask"},
    }[wishes.role]
    if wishes.role == "classifier" and len(wishes.labels) < 2:
        raise UsageError("a classifier needs its classes", hint="Name them: --labels A,B,…")
    if wishes.role == "removal" and wishes.labels:
        raise UsageError("a removal network has no classes", hint="Leave out --labels.")
    if wishes.role != "classifier" and (wishes.cam or wishes.features):
        raise UsageError(f"--cam and --features are for classifiers, not for {wishes.role}")
    if other := sorted(wishes.outputs.keys() - gives):
        said = {"answer": "a class", "image": "an image", "mask": "a mask"}[other[0]]
        raise UsageError(
            f"--output names the tensor of {said}, which a model for {wishes.role} has not",
            hint=f"It has: {', '.join(sorted(gives))}.",
        )


class _Probe:
    """One model under examination; `notes` collects what was settled without being said."""

    def __init__(self, content: bytes, wishes: Wishes) -> None:
        self.content, self.wishes = content, wishes
        self.graph = Graph(content)
        self.engine = Engine(wishes.name, content, Device())
        self.notes: list[str] = []
        self._floats = {one.name: one for one in self.graph.outputs if one.element in FLOATS}
        if not self._floats:
            raise ModelUnusable(
                "it has no float output, so it says which class but not how sure it is",
                hint="Export it without its last step (ArgMax, ZipMap).",
            )

    def described(self) -> Described:
        spec = self._range_of(self._batched(self._input()))
        self.views = _probe_views(spec)
        self.answers = self.engine.run(self.views, spec, tuple(self._floats))
        for name, values in self.answers.items():
            if not np.isfinite(values).all():
                raise ModelUnusable(f"its output {name} is not a number for a plain picture")
        outputs = {
            "classifier": self._answer,
            "removal": self._removal,
            "segmentation": self._segmentation,
        }[self.wishes.role](spec)
        manifest = self._manifest(spec, outputs)
        return Described(self._with_gradients(manifest), tuple(self.notes))

    # --- What goes in ---------------------------------------------------------------------

    def _input(self) -> InputSpec:
        """Layout, channels and size: what the file fixes, and, of the rest, what runs."""
        given = self.graph.input
        shape = given.shape or (None,) * 4
        possible = list(self._possible(shape))
        if not possible:
            raise self._impossible(shape)
        if any(None in one for one in possible):
            raise UsageError(
                f"the model takes pictures of any size ({_shown(shape)})",
                hint="Say which it was trained on: --input 224x224.",
            )
        dtype = DTYPES[given.element]
        running, reason = [], None
        for layout, channels, rows, columns in possible:
            try:
                spec = _input_spec(
                    tensor=given.name,
                    layout=layout,
                    rows=rows,
                    columns=columns,
                    channels=channels,
                    colours=self.wishes.colours if channels == 3 else "RGB",
                    dtype=dtype,
                    batch=shape[0],
                    range=(0, 255 if dtype == "uint8" else 1),
                    fit=self.wishes.fit,
                )
                self.engine.run(
                    np.zeros((1, 3, rows, columns), np.float32), spec, tuple(self._floats)
                )
                running.append(spec)
            except ModelUnusable as error:
                reason = reason or error
        if not running and reason is not None:
            raise reason
        if len(running) > 1:
            ways = " or ".join(f"--input {_in_order(one)}" for one in running)
            raise UsageError(f"the model takes pictures in more ways than one: {ways}")
        return running[0]

    def _possible(self, shape: Sequence[int | None]) -> Iterator[tuple[Any, Any, Any, Any]]:
        """(layout, channels, rows, columns) that neither the file nor the user rules out."""
        wishes = self.wishes
        for layout, (c, r, k) in (("NCHW", (1, 2, 3)), ("NHWC", (3, 1, 2))):
            if wishes.layout not in (None, layout):
                continue
            rows, columns = wishes.size or (None, None)
            if any(a and b and a != b for a, b in ((shape[r], rows), (shape[k], columns))):
                continue
            for channels in (3, 1):
                if shape[c] in (None, channels) and wishes.channels in (None, channels):
                    yield layout, channels, shape[r] or rows, shape[k] or columns

    def _impossible(self, shape: Sequence[int | None]) -> Exception:
        wishes = self.wishes
        if wishes.layout or wishes.channels or wishes.size:
            return UsageError(f"the model's input is {_shown(shape)}; --input says something else")
        return ModelUnusable(f"its input is {_shown(shape)}; pictures have 1 or 3 channels")

    def _batched(self, spec: InputSpec) -> InputSpec:
        """One picture at a time where the file allows more and then fails or mixes them up."""
        if spec.batch is not None:
            return spec
        views = _probe_views(spec)[:2]
        try:
            both = self.engine.run(views, spec, tuple(self._floats))
        except ModelUnusable:
            return spec.model_copy(update={"batch": 1})
        single = [self.engine.run(views[i : i + 1], spec, tuple(self._floats)) for i in (0, 1)]
        for name, values in both.items():
            alone = np.concatenate([one[name] for one in single])
            if alone.shape != values.shape or not np.allclose(values, alone, rtol=0.02, atol=1e-3):
                return spec.model_copy(update={"batch": 1})
        return spec

    def _range_of(self, spec: InputSpec) -> InputSpec:
        """Values: what the user says, else what the graph itself does to them first."""
        wishes = self.wishes
        told = (wishes.range, wishes.mean, wishes.std)
        if spec.dtype == "uint8":
            if any(one is not None for one in told) and told != ((0.0, 255.0), None, None):
                raise UsageError("an integer input takes 0 to 255, and nothing else")
            return spec
        known = wishes.range
        if known is None and wishes.mean is not None:
            known = (0.0, 1.0) if max(map(abs, wishes.mean)) <= 1 else (0.0, 255.0)
            self.notes.append(f"mean and std are taken to be in the range {_range_text(known)}")
        if known is None:
            known = self._range_in_graph()
        if known is None:
            raise UsageError(
                "nothing in the file tells which values the model takes",
                hint="Say it: --range 0..1, 0..255 or -1..1; with --mean and --std where they "
                "were used (ImageNet: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225).",
            )
        return _input_spec(
            **{
                **spec.model_dump(),
                "range": known,
                "mean": wishes.mean or (0.0,),
                "std": wishes.std or (1.0,),
            }
        )

    def _range_in_graph(self) -> tuple[float, float] | None:
        """The range that the graph's own first steps are made for."""
        found = self.graph.scaling()
        if found is None:
            return None
        mean, std = float(np.mean(found.mean)), float(np.mean(found.std))
        known = None
        if std >= 20 or mean >= 20:
            known = (0.0, 255.0)
        elif 0 < std <= 1 and 0 <= mean <= 1:
            known = (0.0, 1.0)
        elif std > 0 and abs(mean + 1) < 1e-3:
            known = (-1.0, 1.0)
        if known is not None:
            self.notes.append(f"the graph scales its input itself: it takes {_range_text(known)}")
        return known

    # --- What comes out -------------------------------------------------------------------

    def _named(self, what: str) -> list[str]:
        """The tensors that may give `what`: the one the user names, else every float one."""
        wanted = self.wishes.outputs.get(what)
        if wanted is None:
            return [name for name in self._floats if name != self.wishes.features]
        if wanted not in self._floats:
            there = ", ".join(self._floats)
            raise UsageError(f"the model has no float output {wanted}", hint=f"It has: {there}.")
        return [wanted]

    def _answer(self, spec: InputSpec) -> list[dict[str, Any]]:
        """The output with a column for each label, or one column for two."""
        count = len(self.wishes.labels)
        counts = {name: _columns(self.answers[name]) for name in self._named("answer")}
        fitting = [name for name, n in counts.items() if n == count or (n, count) == (1, 2)]
        if not fitting:
            gives = ", ".join(
                f"{name} gives {n}" if n else f"{name} is a map" for name, n in counts.items()
            )
            raise UsageError(
                f"--labels names {count} classes, but the model's outputs do not fit: {gives}"
            )
        if len(fitting) > 1:
            raise UsageError(
                f"several outputs could be the answer: {', '.join(fitting)}",
                hint=f"Name it: --output {fitting[0]}.",
            )
        tensor = fitting[0]
        if np.ptp(self.answers[tensor], axis=0).max() == 0:
            self.notes.append("it answers the same whatever it sees: check --range")
        return [
            {
                "task": self.wishes.task or self.wishes.name,
                "tensor": tensor,
                "kind": self.wishes.kind or self._kind_of(tensor),
                "labels": self.wishes.labels,
            }
        ]

    def _kind_of(self, tensor: str) -> Kind:
        values = self.answers[tensor].reshape(len(self.views), -1)
        maker = self.graph.answered_by(tensor)
        bounded = maker is not None and maker.op_type in ("Sigmoid", "HardSigmoid")
        within = bool((values >= -1e-3).all() and (values <= 1 + 1e-3).all())
        if values.shape[1] > 1:
            if within and np.allclose(values.sum(axis=1), 1, atol=1e-2):
                return "probabilities"
            if bounded:
                raise ModelUnusable(
                    f"its output {tensor} says yes or no to each class by itself (a sigmoid for "
                    "each); here classes exclude each other"
                )
            return "logits"
        if bounded:
            return "probabilities"
        if within:
            raise UsageError(
                f"the output {tensor} may be a probability or a logit",
                hint="Say which: --scores probabilities or --scores logits.",
            )
        return "logits"

    def _removal(self, spec: InputSpec) -> list[dict[str, Any]]:
        """A picture like the one that goes in, and a mask of its size."""
        image = self._only_map(spec, "image", spec.channels)
        mask = self._only_map(spec, "mask", 1, taken=image)
        given = planes_of(self.answers[image], spec)
        shown = self.views if given.shape[1] == 3 else self.views.mean(axis=1, keepdims=True)
        if spec.colours == "BGR":
            shown = shown[:, ::-1]
        ranges = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
        errors = [
            float(np.abs((given - low) / (high - low) - shown).mean()) for low, high in ranges
        ]
        if min(errors) > 0.2:
            self.notes.append(f"its output {image} does not resemble the picture it was given")
        return [
            {"kind": "image", "tensor": image, "range": ranges[int(np.argmin(errors))]},
            {"kind": "mask", "tensor": mask, "values": self._values_of(mask, 1)},
        ]

    def _segmentation(self, spec: InputSpec) -> list[dict[str, Any]]:
        """A mask of the picture's size with a channel for each label, or one for two."""
        labels = self.wishes.labels
        if len(labels) < 2:
            raise UsageError(
                "a segmentation network needs its labels", hint="As in --labels background,lesion"
            )
        counts = (len(labels), 1) if len(labels) == 2 else (len(labels),)
        fitting = [count for count in counts if self._maps(spec, "mask", count)]
        count = fitting[0] if fitting else counts[0]
        mask = self._only_map(spec, "mask", count)
        values = self._values_of(mask, count, spec)
        return [{"kind": "mask", "tensor": mask, "values": values, "labels": labels}]

    def _maps(self, spec: InputSpec, what: str, channels: int, taken: str = "") -> list[str]:
        """Outputs that are maps of the picture's size with so many channels."""
        wanted = (channels, spec.rows, spec.columns)
        return [
            name
            for name in self._named(what)
            if name != taken
            and self.answers[name].ndim in (3, 4)
            and planes_of(self.answers[name], spec).shape[1:] == wanted
        ]

    def _only_map(self, spec: InputSpec, what: str, channels: int, taken: str = "") -> str:
        found = self._maps(spec, what, channels, taken)
        if what in found:
            return what
        if len(found) == 1:
            return found[0]
        shapes = ", ".join(
            f"{name} is {'x'.join(map(str, self.answers[name].shape[1:]))}"
            for name in self._named(what)
        )
        raise UsageError(
            f"{'no' if not found else 'more than one'} output is a {what} of {spec.rows} x "
            f"{spec.columns} pixels and {channels} channels: {shapes}",
            hint=f"Name the tensor: --output {what}=TENSOR." if found else "",
        )

    def _values_of(self, mask: str, channels: int, spec: InputSpec | None = None) -> Kind:
        if self.wishes.kind is not None:
            return self.wishes.kind
        values = self.answers[mask]
        within = bool((values >= -1e-3).all() and (values <= 1 + 1e-3).all())
        if channels > 1 and spec is not None:
            total = planes_of(values, spec).sum(axis=1)
            within = within and bool(np.allclose(total, 1, atol=1e-2))
        return "probabilities" if within else "logits"

    # --- The whole ------------------------------------------------------------------------

    def _manifest(self, spec: InputSpec, outputs: list[dict[str, Any]]) -> Manifest:
        wishes = self.wishes
        if wishes.features is not None and not _columns(
            self.answers.get(wishes.features, np.zeros((1, 1, 2, 2), np.float32))
        ):
            raise UsageError(f"{wishes.features} is no output with a vector of features")
        facts: dict[str, Any] = {
            "name": wishes.name,
            "family": wishes.family,
            "role": wishes.role,
            "file": "model.onnx",
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "input": spec,
            "outputs": outputs,
            "features": {"tensor": wishes.features} if wishes.features else None,
        }
        if wishes.data or wishes.licence:
            task = wishes.task or wishes.name
            named = {"name": wishes.data or "not stated", "licence": wishes.licence or "not stated"}
            facts["data"] = [{"task": task, **named}]
        try:
            return Manifest.model_validate(facts)
        except ValidationError as error:
            raise UsageError(f"the model cannot be described so: {faults_of(error)}") from None

    def _with_gradients(self, manifest: Manifest) -> Manifest:
        """The manifest with what its gradients are good for: Grad-CAM, or queries only."""
        session = Session(manifest, self.content, Device())
        verdict = gradients_of(manifest, self.content, session)
        if verdict.fault:
            self.notes.append(
                f"no gradients ({verdict.fault}): it serves for queries, and where it looks is "
                "found by occlusion"
            )
            return manifest.model_copy(update={"query_only": _one_line(verdict.fault)})
        if manifest.role != "classifier" or self.wishes.cam == "none":
            return manifest
        tensor = self.wishes.cam or self._map_for_cam(manifest.input)
        if tensor is None:
            self.notes.append("no map for Grad-CAM: where it looks is found by occlusion")
            return manifest
        able = Manifest.model_validate(
            {**manifest.model_dump(by_alias=True), "cam": {"tensor": tensor}}
        )
        try:
            differentiable = Differentiable(able, self.content, session)
            task = manifest.answers[0].task
            maps = differentiable.cam(self.views[0], task, 0)
            usable = maps.ndim == 3 and bool(np.isfinite(maps).all())
        except Exception as error:  # torch and the converter raise whatever an operator raises
            usable = False
            if self.wishes.cam:
                raise UsageError(f"Grad-CAM cannot look at {tensor}: {_one_line(error)}") from None
        if not usable:
            self.notes.append("no map for Grad-CAM: where it looks is found by occlusion")
        return able if usable else manifest

    def _map_for_cam(self, spec: InputSpec) -> str | None:
        """The last map of more than one channel and cell, not too far from the answer."""
        answer = self._named("answer")[0]
        candidates, passed = [], int(self.graph.maker_of(answer) in _WEIGHING)
        for name in self.graph.before(answer):
            maker = self.graph.maker_of(name)
            if maker in _MAPS:
                candidates.append(name)
            passed += maker in _WEIGHING
            if passed > _DEEPEST:
                break
        if not candidates:
            return None
        wider = exposed(Graph(self.content).proto, *candidates).SerializeToString()
        try:
            engine = Engine(self.wishes.name, wider, Device())
            shapes = engine.run(self.views[:1], spec, candidates)
        except ModelUnusable:
            return None
        for name in candidates:
            shape = shapes[name].shape
            if len(shape) == 4 and min(shape[1:]) > 1 and shape[2] < spec.rows:
                return name
        return None


def _probe_views(spec: InputSpec) -> Float:
    """(6, 3, rows, columns) in steps of 1/255: noise, a bright disc, slopes, dark and light."""
    rows, columns = spec.rows, spec.columns
    generator = np.random.default_rng(0)
    down, across = np.mgrid[:rows, :columns] / np.array([rows, columns]).reshape(2, 1, 1)
    disc = (np.hypot(down - 0.5, across - 0.4) < 0.3) * 0.7 + 0.1
    noisy = np.clip(disc + generator.normal(0, 0.05, (rows, columns)), 0, 1)
    flat = np.ones((rows, columns))
    grey = np.stack([noisy, disc, down, across * down, flat * 0.02, flat * 0.98])
    views = np.repeat(grey[:, None], 3, axis=1)
    views[1] *= np.array([1.0, 0.7, 0.5]).reshape(3, 1, 1)
    views[0] = generator.random((3, rows, columns)) * 0.5 + views[0] * 0.5
    result: Float = (np.rint(views * 255) / 255).astype(np.float32)
    return result


def _columns(values: Float) -> int:
    """How many scores an output has for a picture; 0 where it is a map or a sequence."""
    if values.ndim == 1:
        return 1
    rest = [n for n in values.shape[1:] if n != 1]
    return int(np.prod(rest)) if len(rest) <= 1 else 0


def _input_spec(**facts: Any) -> InputSpec:
    try:
        return InputSpec.model_validate(facts)
    except ValidationError as error:
        raise UsageError(f"the model's input cannot be so: {faults_of(error)}") from None


def _in_order(spec: InputSpec) -> str:
    sizes = [spec.rows, spec.columns]
    sizes.insert(0 if spec.layout == "NCHW" else 2, spec.channels)
    return "x".join(map(str, sizes))


def _shown(shape: Sequence[int | None]) -> str:
    return " x ".join("?" if size is None else str(size) for size in shape)


def _range_text(known: tuple[float, float]) -> str:
    return f"{known[0]:g}..{known[1]:g}"


def _one_line(error: object) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(c for c in lines[0] if c.isprintable())[:200]
