"""The surrogate bank: which models there are, and which ones a profile uses."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from miad_cli.errors import ModelUnusable, UsageError
from miad_cli.models.gradients import Differentiable
from miad_cli.models.graph import Graph
from miad_cli.models.manifest import Manifest, checked_model_bytes, load_manifest
from miad_cli.models.places import user_models_directory
from miad_cli.models.session import Device, Session
from miad_cli.shipped import models_directory


class Surrogate:
    """One model of the bank: its manifest, and its two engines, each made once when first asked.

    `labels` is the order of classes that tasks are answered in, where it is not the model's own.

    Raises ModelUnusable at construction when the file is not the one the manifest describes.
    """

    def __init__(
        self, folder: Path, device: Device, labels: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.manifest: Manifest = load_manifest(folder)
        self._content = checked_model_bytes(folder, self.manifest)
        self._device = device
        self._labels = labels

    @cached_property
    def session(self) -> Session:
        try:
            Graph(self._content)  # refuses what would make an engine read other files
        except ModelUnusable as error:
            raise ModelUnusable(f"{self.manifest.name}: {error.message}", error.hint) from None
        return Session(self.manifest, self._content, self._device, labels=self._labels)

    @cached_property
    def differentiable(self) -> Differentiable:
        if self.manifest.query_only is not None:
            raise ModelUnusable(f"{self.manifest.name}: no gradients: {self.manifest.query_only}")
        return Differentiable(self.manifest, self._content, self.session)

    @cached_property
    def gradients(self) -> bool:
        """False where the model serves for queries only: its graph could not be converted."""
        try:
            return self.differentiable is not None
        except ModelUnusable:
            return False

    @property
    def looks(self) -> bool:
        """True where Grad-CAM can look through it; occlusion can look through any."""
        return self.manifest.looks and self.gradients


@dataclass(frozen=True)
class Bank:
    """The models a run uses.

    `task` is None where none of them was trained for the study; `attention`, the model that
    says where the logo may not be, need not be one of the surrogates. `segmentation` is a network
    that finds the lesions themselves, and None where attention has to do. `removers` are the
    removal networks that the logo has to outlast.
    """

    surrogates: tuple[Surrogate, ...]
    task: str | None
    attention: Surrogate
    segmentation: Surrogate | None = None
    removers: tuple[Surrogate, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over the models' checksums in order: the same bank, the same digest."""
        found = [self.segmentation] if self.segmentation else []
        looking = [] if self.attention in self.surrogates else [self.attention]
        used = (*self.surrogates, *found, *self.removers, *looking)
        joined = "\n".join(one.manifest.sha256 for one in used)
        return hashlib.sha256(joined.encode()).hexdigest()

    @property
    def attention_by(self) -> Literal["grad-cam", "occlusion"]:
        """How `attention` looks: through its gradients, or, without any, by covering parts."""
        return "grad-cam" if self.attention.looks else "occlusion"


def list_models(root: Path | None = None) -> list[Path]:
    """Folders below `root` that hold a manifest, by name; default: the shipped ones, then those
    that this user added."""
    roots = [models_directory(), user_models_directory()] if root is None else [root]
    return [
        path.parent
        for folder in roots
        for path in sorted(folder.glob("*/manifest.toml"))
        if not path.parent.name.startswith(".")  # half added or half removed
    ]


def find_model(reference: str) -> Path:
    """The folder of the model with this name, or, where none has it, at this path.

    A path is a folder with a manifest, an ONNX file in one, or an ONNX file that is the same as
    that of a model already there.

    Raises:
        UsageError: there is none.
    """
    folders = {folder.name: folder for folder in list_models()}
    if reference in folders:
        return folders[reference]
    path = Path(reference)
    if (path / "manifest.toml").is_file():
        return path
    if not path.is_file():
        raise UsageError(
            f"no model is called {reference}",
            hint=f"There are: {', '.join(folders)}. Or give the path of a model.",
        )
    beside = path.parent / "manifest.toml"
    if beside.is_file() and load_manifest(path.parent).file == path.name:
        return path.parent
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for folder in folders.values():
        if load_manifest(folder).sha256 == digest:
            return folder
    raise UsageError(
        f"{reference}: nothing says what this model answers and how pictures go in",
        hint="Say it once, and use it by its name then: "
        f"miad models add {shlex.quote(reference)} --labels A,B,…",
    )


def load_bank(
    task: str | None,
    names: Sequence[str],
    attention: str | None,
    device: Device,
    segmentation: str | None = None,
) -> Bank:
    """The classifiers for `task`, or, where none knows it, all of them as feature extractors.

    `names` restricts the choice to models of these names or at these paths; where none of them
    knows the task and one has no features, the one task that they all answer is taken instead.
    `attention` names the model that Grad-CAM looks through (default: the first that has a tensor
    for it; where none has, the first model is looked through by occlusion). `segmentation` names
    the network that finds lesions, as `names` do; None: there is to be none.

    Raises:
        UsageError: a name that no classifier has, or no segmentation network.
        ModelUnusable: no classifier at all, models that name their classes differently, or a
            file that is not the one its manifest describes.
    """
    everyone = _installed("classifier")
    chosen = [_classifier_at(find_model(name)) for name in names] or everyone
    able = _knowing(chosen, task)
    if names and not able and not all(one.manifest.features for one in chosen):
        task = _common_task(chosen)
        able = _knowing(chosen, task)
    used = able or [one for one in chosen if one.manifest.features]
    if not used:
        raise ModelUnusable("no classifier is installed that could be attacked")
    labels = _labels(able, task) if able and task else {}
    others = [one for one in everyone if not able or _answers_alike(one, labels)]
    looking = [one for one in (*used, *others) if one.manifest.looks]
    preferred = [one for one in looking if one.manifest.name == attention]
    loaded = {one.folder: Surrogate(one.folder, device, labels) for one in used}
    eye = (preferred or looking or used)[0].folder
    return Bank(
        tuple(loaded[one.folder] for one in used),
        task if able else None,
        loaded[eye] if eye in loaded else Surrogate(eye, device, labels),
        None if segmentation is None else load_segmentation(segmentation, device),
        tuple(Surrogate(one.folder, device) for one in _installed("removal")),
    )


def load_segmentation(reference: str, device: Device) -> Surrogate:
    """The segmentation network of this name or at this path.

    Raises:
        UsageError: there is none, or what is there does something else.
        ModelUnusable: its file is not the one that its manifest describes.
    """
    folder = find_model(reference)
    manifest = load_manifest(folder)
    if manifest.role != "segmentation":
        able = [one.name for one in list_models() if _role_of(one) == "segmentation"]
        raise UsageError(
            f"{manifest.name} finds no lesions: its role is {manifest.role}",
            hint=f"Segmentation networks that are there: {', '.join(able) or 'none'}.",
        )
    return Surrogate(folder, device)


def _role_of(folder: Path) -> str:
    """What a model does; empty where nobody can tell."""
    try:
        return load_manifest(folder).role
    except ModelUnusable:
        return ""


@dataclass(frozen=True)
class _Entry:
    folder: Path
    manifest: Manifest


def _installed(role: str) -> list[_Entry]:
    """Every model that does this.

    Raises:
        ModelUnusable: two have the same name.
    """
    entries: dict[str, _Entry] = {}
    for folder in list_models():
        one = _Entry(folder, load_manifest(folder))
        if one.manifest.name in entries:
            raise ModelUnusable(
                f"two models are called {one.manifest.name}: {folder} is the second",
                hint=f"Take it out with  miad models remove {folder.name}  and add it again "
                "under another --name.",
            )
        entries[one.manifest.name] = one
    return [one for one in entries.values() if one.manifest.role == role]


def _classifier_at(folder: Path) -> _Entry:
    one = _Entry(folder, load_manifest(folder))
    if one.manifest.role != "classifier":
        raise UsageError(f"{one.manifest.name} is no classifier: its role is {one.manifest.role}")
    return one


def _knowing(entries: Sequence[_Entry], task: str | None) -> list[_Entry]:
    return [one for one in entries if task and one.manifest.output_for(task)]


def _common_task(entries: Sequence[_Entry]) -> str | None:
    """The task that is all that each of the models answers, if there is one."""
    tasks = {answer.task for one in entries for answer in one.manifest.answers}
    return tasks.pop() if len(tasks) == 1 else None


def _labels(entries: Sequence[_Entry], task: str) -> dict[str, tuple[str, ...]]:
    """The order of classes that all models answer in: the first one's.

    Raises:
        ModelUnusable: two models do not name the same classes.
    """
    first, *rest = entries
    output = first.manifest.output_for(task)
    labels = {task: output.labels if output else ()}
    for one in rest:
        if not _answers_alike(one, labels):
            raise ModelUnusable(
                f"{first.manifest.name} and {one.manifest.name} answer {task} with different "
                "labels",
                hint="Name with --models those that belong together.",
            )
    return labels


def _answers_alike(one: _Entry, labels: Mapping[str, Sequence[str]]) -> bool:
    """True where the model answers every task of `labels` with the same classes, in any order."""
    outputs = {task: one.manifest.output_for(task) for task in labels}
    return all(
        output is not None and set(output.labels) == set(labels[task])
        for task, output in outputs.items()
    )
