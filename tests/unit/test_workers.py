"""Work shared by processes comes out as if one had done it, whatever happens to them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import miad_cli.workers
from miad_cli.errors import MiadError, UsageError
from miad_cli.workers import BATCH, Lost, in_processes, usable_cores

THINGS = list(range(5 * BATCH + 3))
DEADLY = 2 * BATCH + 1


def square(number: int) -> int:
    return number * number


def slow_at_first(number: int) -> int:
    time.sleep(0.05 if number < 3 else 0)
    return number


def who(number: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def die_over(deadly: tuple[int, ...], number: int) -> int:
    if number in deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(mark: Path, number: int) -> int:
    if number == DEADLY and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    if number in (DEADLY, DEADLY + 2):
        raise UsageError(f"not {number}", hint="take another")
    return number


def read(path: Path) -> str:
    return path.read_text()


def shared(work, things=THINGS, jobs=2):
    with closing(in_processes(work, things, jobs, preload="miad_cli.workers")) as results:
        return list(results)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_are_those_of_one_process_in_their_order(jobs: int) -> None:
    assert shared(square, jobs=jobs) == [square(number) for number in THINGS]


def test_a_slow_thing_holds_its_place() -> None:
    assert shared(slow_at_first) == THINGS


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_fewer_things_than_processes(count: int) -> None:
    assert shared(square, THINGS[:count], jobs=3) == [square(n) for n in range(count)]


def test_the_work_is_shared_by_other_processes() -> None:
    workers = set(shared(who))
    assert os.getpid() not in workers
    assert len(workers) == 2


def test_paths_mean_there_what_they_mean_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.txt").write_text("found")
    assert shared(read, [Path("here.txt")] * 3) == ["found"] * 3


@pytest.mark.parametrize("deadly", [(DEADLY,), (0, 1, BATCH, THINGS[-1])], ids=str)
def test_a_process_that_dies_costs_what_it_died_over(deadly: tuple[int, ...]) -> None:
    expected = [Lost() if number in deadly else number for number in THINGS]
    assert shared(partial(die_over, deadly)) == expected


def test_a_process_that_was_killed_for_another_reason_costs_nothing(tmp_path: Path) -> None:
    assert shared(partial(die_once, tmp_path / "mark")) == THINGS
    assert (tmp_path / "mark").exists()


def test_processes_that_die_over_everything_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miad_cli.workers, "_LOSSES", 4)
    with pytest.raises(MiadError, match="keep dying") as raised:
        shared(partial(die_over, tuple(THINGS)))
    assert raised.value.exit_code == 1


def test_an_error_comes_in_its_place() -> None:
    found = []
    with (
        closing(in_processes(refuse, THINGS, 3, preload="miad_cli.workers")) as results,
        pytest.raises(UsageError, match=f"not {DEADLY}$") as raised,
    ):
        found.extend(results)
    assert found == THINGS[:DEADLY]
    assert raised.value.hint == "take another"


def test_processes_end_with_the_work() -> None:
    assert not any(map(is_alive, set(shared(who))))


def test_processes_end_when_nobody_wants_the_rest() -> None:
    with closing(in_processes(who, THINGS, 2, preload="miad_cli.workers")) as results:
        worker = next(results)
        assert isinstance(worker, int)
        assert is_alive(worker)
    assert not is_alive(worker)


def test_where_no_process_can_be_started_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refused)
    with pytest.raises(MiadError, match="Resource temporarily unavailable"):
        shared(square)


def test_usable_cores_are_those_of_this_process() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
