"""The same work on many things, in several processes, with the results in order.

A worker is a fresh process: nothing is inherited but what is handed over, which is the function
and a few things at a time. It ends with the process that started it, however that ends. One that
dies over a thing costs that thing alone.

Small things are handed over many at a time. Things that take long go one by one, and those that
share something, made by whoever does the first of them, stay together: they are a unit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from miad_cli.errors import MiadError

Task = TypeVar("Task")
Result = TypeVar("Result")

BATCH = 16
"""Things handed over at once: a message for each would cost a good part of the work."""

_AHEAD = 2
"""Batches a worker has at a time, so that it need not wait for the next one."""

_LOSSES = 100
"""Workers that may die in one run before something else must be wrong than a few files."""

_PATIENCE = 5.0
"""Seconds that a worker has to end."""

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables that numpy's and torch's libraries read when they are loaded."""


@dataclass(frozen=True)
class Lost:
    """What stands in place of a result: the worker died over this thing, more than once."""


@dataclass(frozen=True)
class _Batch(Generic[Task]):
    """Things to do; `first` is the place of the first of them.

    Attributes:
        is_unit: they are answered one by one, so that it is known which one a worker died over.
        deaths: workers that died over a unit since it last got an answer.
    """

    first: int
    tasks: Sequence[Task]
    is_unit: bool = False
    deaths: int = 0

    def after(self, count: int, deaths: int = 0) -> list[_Batch[Task]]:
        """What is left without the first `count` things: one batch, or none."""
        if count >= len(self.tasks):
            return []
        return [replace(self, first=self.first + count, tasks=self.tasks[count:], deaths=deaths)]


@dataclass(eq=False)
class _Worker(Generic[Task]):
    """A process, the pipe to it, and what it has not answered yet, oldest first.

    `began` once it said that it can work.
    """

    process: BaseProcess
    pipe: Connection
    batches: deque[_Batch[Task]] = field(default_factory=deque)
    began: bool = False


def usable_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int,
    preload: str,
    units: Sequence[int] | None = None,
    threads: int = 0,
) -> Generator[Result | Lost, None, None]:
    """`work` of each of `tasks`, in their order, done by up to `jobs` processes.

    `work`, tasks and results are pickled, and go through pipes: they are on no disk and in no
    list of processes. `preload` names the module that the processes need. What is in memory
    besides tasks and results does not depend on how many there are. Close the iterator to end the
    processes before it is exhausted.

    `units` says of things that take long how many in a row belong to one process, all of them
    together as many as there are tasks. `threads` is how many threads libraries may use in each
    process, 0 for as many as they like; what the user's environment says of it stands.

    Raises:
        MiadError: `work` raised it for the next task, or no process can be kept alive.
    """
    waiting = _batches(tasks, jobs) if units is None else _units(tasks, units)
    ahead = _AHEAD if units is None else 1
    with _crew(_Crew(work, preload, ahead, threads), min(jobs, len(waiting))) as crew:
        done: dict[int, list[Any]] = {}
        place = 0
        while place < len(tasks):
            for first, results in crew.answers(waiting):
                done[first] = results
                if any(isinstance(one, MiadError) for one in results):
                    _drop_after(first, waiting)
            while place in done:
                for result in done.pop(place):
                    if isinstance(result, MiadError):
                        raise result
                    yield result
                    place += 1


def _batches(tasks: Sequence[Task], jobs: int) -> deque[_Batch[Task]]:
    size = max(1, min(BATCH, len(tasks) // (_AHEAD * jobs)))
    return deque(_Batch(first, tasks[first : first + size]) for first in range(0, len(tasks), size))


def _units(tasks: Sequence[Task], counts: Sequence[int]) -> deque[_Batch[Task]]:
    ends = list(accumulate(counts))
    return deque(
        _Batch(end - count, tasks[end - count : end], is_unit=True)
        for end, count in zip(ends, counts, strict=True)
    )


def _drop_after(place: int, waiting: deque[_Batch[Task]]) -> None:
    """Take out what nobody will ask for: an error ends the work when its place comes."""
    kept = [batch for batch in waiting if batch.first < place]
    waiting.clear()
    waiting.extend(kept)


@contextmanager
def _crew(crew: _Crew[Task], count: int) -> Iterator[_Crew[Task]]:
    """A crew with `count` workers that are running, and have ended afterwards."""
    try:
        for _ in range(count):
            crew.hire()
        yield crew
        crew.dismiss(_PATIENCE)
    finally:
        crew.dismiss(0)


class _Crew(Generic[Task]):
    """Workers that are given batches and asked for answers."""

    def __init__(self, work: Callable[[Task], Any], preload: str, ahead: int, threads: int) -> None:
        linux = sys.platform == "linux"
        # Forking from a process that does nothing else is safe and shares memory; forking this
        # one, with whatever threads it has, is not.
        self._context: Any = multiprocessing.get_context("forkserver" if linux else "spawn")
        if linux:
            self._context.set_forkserver_preload([preload])
        self._work, self._ahead = work, ahead
        mine = [name for name in _THREADS if threads and name not in os.environ]
        self._limits = dict.fromkeys(mine, str(threads))
        self._workers: list[_Worker[Task]] = []
        self._losses = 0

    def hire(self) -> None:
        """Start one worker more.

        Raises:
            MiadError: the system does not let us.
        """
        try:
            with _without_interrupts(), _environment(self._limits):
                ours, theirs = self._context.Pipe()
                process = self._context.Process(
                    target=_serve,
                    args=(theirs, self._work, Path.cwd(), self._limits),
                    daemon=True,
                )
                process.start()
                self._workers.append(_Worker(process, ours))
                theirs.close()
        except OSError as error:
            raise MiadError(
                f"no further process can be started ({error.strerror})", hint="Use --jobs 1."
            ) from None

    def answers(self, waiting: deque[_Batch[Task]]) -> Iterator[tuple[int, list[Any]]]:
        """Hand out what is `waiting`, wait for somebody to answer: places and results.

        What a dead worker had not begun goes back to `waiting`. The batch that it died over goes
        back in single things, and a thing that was single already is lost. A unit goes back whole;
        the thing that a second worker dies over is lost, and with a third one all that is left:
        then it is what they share.
        """
        for worker in self._workers:
            self._hand_out(worker, waiting)
        by_pipe = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[pipe]  # type: ignore[index]  # on Linux they are what went in
            try:
                results = worker.pipe.recv()
            except (EOFError, OSError):
                yield from self._bury(worker, waiting)
                continue
            if worker.began:
                yield _answered(worker, results), results
            worker.began = True

    def _hand_out(self, worker: _Worker[Task], waiting: deque[_Batch[Task]]) -> None:
        while worker.began and waiting and len(worker.batches) < self._ahead:
            try:
                worker.pipe.send(waiting[0])
            except OSError:
                return  # it died; its pipe will say so
            worker.batches.append(waiting.popleft())

    def _bury(
        self, worker: _Worker[Task], waiting: deque[_Batch[Task]]
    ) -> Iterator[tuple[int, list[Any]]]:
        self._workers.remove(worker)
        _end(worker, _PATIENCE)
        self._losses += 1
        if not worker.began or self._losses > _LOSSES:
            raise MiadError("the processes that share the work keep dying", hint="Use --jobs 1.")
        if worker.batches:
            over = worker.batches.popleft()
            waiting.extendleft(reversed(worker.batches))
            lost, again = _after_a_death(over)
            waiting.extendleft(reversed(again))
            if lost:
                yield over.first, [Lost()] * lost
        self.hire()

    def dismiss(self, patience: float) -> None:
        """End all workers: they are told, and after `patience` seconds they are made to."""
        for worker in self._workers:
            worker.pipe.close()
        while self._workers:
            _end(self._workers[-1], patience)
            self._workers.pop()


def _answered(worker: _Worker[Any], results: Sequence[Any]) -> int:
    """The place of what a worker answered, which it has no longer to do. An error ends a unit."""
    batch = worker.batches.popleft()
    if not isinstance(results[-1], MiadError):
        worker.batches.extendleft(batch.after(len(results)))
    return batch.first


def _after_a_death(over: _Batch[Task]) -> tuple[int, list[_Batch[Task]]]:
    """How many things at the front of a batch are lost, and what is to be tried (again)."""
    if over.is_unit:
        deaths = over.deaths + 1
        lost = {1: 0, 2: 1}.get(deaths, len(over.tasks))
        return lost, over.after(lost, deaths)
    if len(over.tasks) == 1:
        return 1, []
    return 0, [_Batch(over.first + n, [task]) for n, task in enumerate(over.tasks)]


def _end(worker: _Worker[Any], patience: float) -> None:
    worker.pipe.close()
    if patience:
        worker.process.join(patience)
    for end in (worker.process.terminate, worker.process.kill):
        if worker.process.is_alive():
            end()
            worker.process.join(_PATIENCE)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits, and does not reach what is started meanwhile.

    A terminal sends it to all processes; only the one that started the others is to say so.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """What is started meanwhile inherits these variables, which are not set now."""
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _serve(
    pipe: Connection, work: Callable[[Any], Any], folder: Path, limits: Mapping[str, str]
) -> None:
    """What a worker does until its pipe is closed at the other end."""
    os.environ.update(limits)  # what forked this process may be older, and have others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    if not (sys.warnoptions or os.environ.get("MIAD_DEBUG")):
        warnings.simplefilter("ignore")  # those of libraries quote what stands in the files
    os.chdir(folder)
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            batch: _Batch[Any] = pipe.recv()
            if batch.is_unit:
                _answer_one_by_one(pipe, work, batch.tasks)
            else:
                pipe.send([_attempted(work, task) for task in batch.tasks])


def _answer_one_by_one(pipe: Connection, work: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
    for task in tasks:
        result = _attempted(work, task)
        pipe.send([result])
        if isinstance(result, MiadError):
            return


def _attempted(work: Callable[[Any], Any], task: Any) -> Any:
    """The result, or the error that is to be raised in its place."""
    try:
        return work(task)
    except MiadError as error:
        return error


def _leave(number: int, frame: FrameType | None) -> None:
    """End in good order, so that what is half written is removed."""
    raise SystemExit(0)
