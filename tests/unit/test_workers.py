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


def die_once_of(mark: Path, number: int) -> tuple[int, int]:
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid()


def meet(folder: Path, number: int) -> int:
    """Wait until somebody does the other of two things."""
    (folder / str(number)).touch()
    end = time.monotonic() + 20
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return os.getpid()


def limits(number: int) -> tuple[str | None, str | None]:
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")


def refuse_and_tell(folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    return refuse(number)


def read(path: Path) -> str:
    return path.read_text()


def shared(work, things=THINGS, jobs=2, **options):
    begun = in_processes(work, things, jobs, preload="miad_cli.workers", **options)
    with closing(begun) as results:
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


# --- Units: things that take long, and belong together --------------------------------------

UNITS = [1, 4, 1, 3, 2]
OF_UNITS = list(range(sum(UNITS)))


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_units_come_out_in_order(jobs: int) -> None:
    assert shared(square, OF_UNITS, jobs, units=UNITS) == [square(number) for number in OF_UNITS]


def test_a_unit_stays_with_one_process() -> None:
    workers = shared(who, OF_UNITS, units=UNITS)
    parts = [workers[1:5], workers[6:9], workers[9:]]
    assert [len(set(part)) for part in parts] == [1, 1, 1]


def test_no_worker_waits_while_another_has_two_units(tmp_path: Path) -> None:
    assert len(set(shared(partial(meet, tmp_path), [0, 1], units=[1, 1]))) == 2


@pytest.mark.parametrize("deadly", [(2,), (0, 3), (4, 5), (11,)], ids=str)
def test_a_death_costs_a_unit_the_thing_it_died_over(deadly: tuple[int, ...]) -> None:
    # 4 and 5 end one unit and are the next one
    expected = [Lost() if number in deadly else number for number in range(11)]
    found = shared(partial(die_over, deadly), range(11), units=UNITS)
    assert found == expected


def test_a_unit_in_which_nothing_lives_is_lost_soon() -> None:
    found = shared(partial(die_over, (1, 2, 3, 4)), OF_UNITS, units=UNITS)
    assert found == [0, *[Lost()] * 4, *OF_UNITS[5:]]


def test_a_unit_goes_on_together_after_a_death_that_was_not_its_own(tmp_path: Path) -> None:
    found = shared(partial(die_once_of, tmp_path / "mark"), OF_UNITS, units=UNITS)
    assert [number for number, _ in found] == OF_UNITS
    assert found[1][1] == found[2][1] != found[3][1] == found[4][1]


def test_an_error_ends_its_unit_and_what_comes_after(tmp_path: Path) -> None:
    things = [DEADLY - 1, DEADLY, DEADLY + 1, *range(50, 60)]
    with pytest.raises(UsageError, match=f"not {DEADLY}$"):
        shared(partial(refuse_and_tell, tmp_path), things, 1, units=[3, *[1] * 10])
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(DEADLY - 1), str(DEADLY)]


# --- Threads --------------------------------------------------------------------------------


def test_libraries_are_told_how_many_threads_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "5")  # somebody's own wish stands

    ((first, own),) = shared(limits, [1], threads=3)
    ((second, _),) = shared(limits, [1], threads=2)

    assert (first, second) == ("3", "2")
    assert own != "3"
    assert "OMP_NUM_THREADS" not in os.environ
