"""What a run is to be about: its protocols, its profile, its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miad_cli.errors import UsageError
from miad_cli.evaluation.datasets import Dataset, plain_name
from miad_cli.evaluation.protocols.material import Material
from miad_cli.evaluation.protocols.protocol import Protocol
from miad_cli.evaluation.protocols.registry import PROTOCOLS, USUAL
from miad_cli.models.bank import list_models
from miad_cli.models.manifest import load_manifest
from miad_cli.profiles import (
    GENERAL,
    Profile,
    fitting_profile,
    shipped_profiles,
    with_overrides,
)

ALL = "all"


def chosen_protocols(
    wanted: Sequence[str], material: Material
) -> tuple[tuple[Protocol, ...], tuple[tuple[str, str], ...]]:
    """The protocols of a run, and those of `all` or of the usual ones that cannot be measured.

    Raises:
        UsageError: a name that no protocol has, or one that was named cannot be measured.
    """
    unknown = [name for name in wanted if name not in PROTOCOLS and name != ALL]
    if unknown:
        raise UsageError(
            f"there is no protocol {unknown[0]}",
            hint=f"There are: {', '.join(PROTOCOLS)}, {ALL}.",
        )
    names = tuple(PROTOCOLS) if ALL in wanted else tuple(wanted) or USUAL
    made, left_out = [], []
    for name, kind in PROTOCOLS.items():
        if name not in names:
            continue
        obstacle = kind.obstacle(material)
        if not obstacle:
            made.append(kind(material))
        elif name in wanted:
            raise UsageError(f"the protocol {name} cannot be measured: {obstacle}")
        else:
            left_out.append((name, obstacle))
    return tuple(made), tuple(left_out)


def profile_for(
    data: Dataset,
    profile: Profile | None,
    task: str | None,
    overrides: Mapping[str, Mapping[str, Any]],
) -> Profile:
    """The profile that was named, or the one of the task, of the pictures' attributes, or of the
    classes.

    Raises:
        UsageError: nothing says what the models are to be asked.
    """
    shipped = shipped_profiles()
    changed = {table: dict(settings) for table, settings in overrides.items()}
    if task is not None:
        changed["models"] = {**changed.get("models", {}), "task": task}
    if profile is not None:
        return with_overrides(profile, changed)
    task = task or _task_of_classes(data)
    if task is None:
        fitting = fitting_profile(shipped, data.cases[0].load().facts)
        task = fitting.models.task
        if task is None:
            raise UsageError(
                "nothing says what these pictures show, so no model can be asked about them",
                hint=f"Name it with --task; models answer {', '.join(known_tasks())}.",
            )
        return with_overrides(fitting, changed)
    named = [one for one in shipped.values() if one.models.task == task]
    chosen = named[0] if named else shipped[GENERAL]
    changed["models"] = {**changed.get("models", {}), "task": task}
    return with_overrides(chosen, changed)


def _task_of_classes(data: Dataset) -> str | None:
    """The one task that knows all classes of the data; None where none does, or several."""
    if data.labels is None:
        return None
    wanted = {plain_name(one) for one in data.labels}
    able = {
        task for task, labels in _answered() if wanted <= {plain_name(label) for label in labels}
    }
    return able.pop() if len(able) == 1 else None


def _answered() -> list[tuple[str, tuple[str, ...]]]:
    """Tasks and classes of every installed classifier."""
    manifests = [load_manifest(folder) for folder in list_models()]
    return [(one.task, tuple(one.labels)) for each in manifests for one in each.answers]


def known_tasks() -> list[str]:
    """Tasks of every installed classifier, sorted."""
    return sorted({task for task, _ in _answered()})


def known_classes() -> set[str]:
    """Names of all classes that any of them tells apart."""
    return {label for _, labels in _answered() for label in labels}
