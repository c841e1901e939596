"""The units of work of a run, shared by processes.

A picture stays with one process, which keeps in memory what was made of it. Marks go to the folder
of the run as they are found; figures go back to the process that holds the ledger, which adds them
in the order in which one process alone would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from miad_cli.errors import MiadError, PictureFailed
from miad_cli.evaluation.ledger import Key, Notes
from miad_cli.evaluation.protocols.bench import Bench, Subject, unreadable
from miad_cli.evaluation.protocols.material import Setup
from miad_cli.evaluation.protocols.protocol import (
    Protocol,
    is_known,
    measure,
    measure_wholes,
)
from miad_cli.evaluation.protocols.registry import PROTOCOLS
from miad_cli.evaluation.protocols.treatments import Store
from miad_cli.workers import Lost, in_processes

Figures = list[tuple[Key, dict[str, Any]]]


@dataclass(frozen=True)
class Task:
    """One unit of work: the place of a picture in the run, and the names of protocol and cell."""

    picture: int
    protocol: str
    cell: str


@dataclass(frozen=True)
class Helper:
    """Does one unit of work after the other in a process of its own, with models of its own.

    `digest` is of everything that decides the figures; what the ledger in `folder` knows under it
    is not measured again.
    """

    setup: Setup
    subjects: tuple[Subject, ...]
    protocols: tuple[str, ...]
    folder: Path
    digest: str

    @cached_property
    def _notes(self) -> Notes:
        return Notes(self.folder, self.digest)

    @cached_property
    def _bench(self) -> Bench:
        return Bench(self.setup.material(), self.subjects, Store(self.folder), self._notes)

    @cached_property
    def _made(self) -> dict[str, Protocol]:
        return {name: PROTOCOLS[name](self._bench.material) for name in self.protocols}

    def __call__(self, task: Task) -> Figures:
        """Whatever was measured for it, and for what it needs.

        Raises:
            PictureFailed: the picture cannot be read any more.
            MiadError: figures cannot be kept, or an error of ours.
        """
        try:
            return self._measured(task)
        except MiadError:
            raise
        except OSError as error:
            reason = f"figures cannot be kept in the work folder ({error.strerror})"
            raise MiadError(reason) from error
        except Exception as error:  # else it would look as if the process had died of it
            if os.environ.get("MIAD_DEBUG"):
                raise
            place = f"picture {task.picture + 1} of the run, {task.protocol}"
            raise MiadError(
                f"{place}: internal error ({type(error).__name__})",
                hint="MIAD_DEBUG=1 shows where.",
            ) from error

    def _measured(self, task: Task) -> Figures:
        protocol, subject = self._made[task.protocol], self.subjects[task.picture]
        cell = next(one for one in protocol.cells if one.name == task.cell)
        try:
            measure(protocol, cell, self._bench, subject)
        except PictureFailed as error:
            raise unreadable(subject, error) from error
        return self._notes.handed_over()


def measure_shared(
    helper: Helper,
    protocols: Sequence[Protocol],
    bench: Bench,
    jobs: int,
    progress: Callable[[], None],
) -> None:
    """What `measure_all` does, with up to `jobs` processes for the pictures.

    Raises:
        PictureFailed: a picture that could be read when the run began cannot be now.
        MiadError: processes keep dying.
    """
    tasks = []
    for place, subject in enumerate(bench.subjects):
        for protocol in protocols:
            for cell in protocol.cells:
                if subject not in cell.subjects(bench):
                    continue
                if is_known(protocol, cell, bench, subject):
                    progress()
                else:
                    tasks.append(Task(place, protocol.name, cell.name))
    together = [len(list(same)) for _, same in groupby(task.picture for task in tasks)]
    threads = helper.setup.device.threads
    with closing(in_processes(helper, tasks, jobs, __name__, together, threads)) as results:
        for task, found in zip(tasks, results, strict=True):
            if isinstance(found, Lost):
                raise MiadError(
                    f"picture {task.picture + 1} of the run: the process died over it",
                    hint="Is there enough memory for so many processes? Try fewer --jobs.",
                )
            for key, figures in found:
                bench.learn(key, figures)
            progress()
    measure_wholes(protocols, bench, progress)
