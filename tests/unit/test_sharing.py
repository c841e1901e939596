"""What becomes of errors in the processes that share an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from miad_cli.errors import MiadError
from miad_cli.evaluation.sharing import Figures, Helper, Task

TASK = Task(4, "unseen", "without resnet")


@dataclass(frozen=True)
class Failing(Helper):
    error: Exception

    def _measured(self, task: Task) -> Figures:
        raise self.error


def failing(error: Exception) -> Failing:
    return Failing(cast(Any, None), (), (), Path(), "", error)


def test_a_full_disk_is_named() -> None:
    with pytest.raises(MiadError, match=r"work folder \(No space left"):
        failing(OSError(28, "No space left on device"))(TASK)


def test_an_error_of_ours_names_picture_and_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIAD_DEBUG", raising=False)
    with pytest.raises(MiadError, match=r"picture 5 .*unseen: internal error \(ZeroDivisionError"):
        failing(ZeroDivisionError())(TASK)
    monkeypatch.setenv("MIAD_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())(TASK)


def test_errors_for_people_pass_as_they_are() -> None:
    error = MiadError("as it is")
    with pytest.raises(MiadError) as caught:
        failing(error)(TASK)
    assert caught.value is error
