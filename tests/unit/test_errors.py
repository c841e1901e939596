"""Exit codes: the table that scripts rely on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

import pytest

from miad_cli import errors
from miad_cli.errors import PRECEDENCE, MiadError, exit_code_of

CODES = {
    "MiadError": 1,
    "UsageError": 2,
    "PictureFailed": 3,
    "NoRoomForLogo": 3,
    "InvisibleLogo": 3,
    "NoUsableInput": 4,
    "TargetNotMet": 5,
    "VerificationFailed": 6,
    "NotProtected": 6,
    "ContainerDamaged": 6,
    "SignatureInvalid": 6,
    "OwnerUnknown": 6,
    "RestorationMismatch": 6,
    "KeyUnusable": 7,
    "OutputExists": 8,
    "DeviceUnavailable": 9,
    "PacsFailed": 10,
    "ModelUnusable": 11,
    "MaskUnusable": 12,
    "Interrupted": 130,
}
ORDER = (130, 1, 2, 9, 11, 8, 12, 7, 6, 10, 4, 3, 5)


def tree(root: type[MiadError]) -> Iterator[type[MiadError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def test_every_error_has_the_exit_code_of_the_table() -> None:
    assert {one.__name__: one.exit_code for one in tree(MiadError)} == CODES


def test_drawing_of_the_tree_is_the_tree() -> None:
    drawn = dict(re.findall(r"^[│├└─ ]*(\w+) +(\d+) ", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(code) for name, code in drawn.items()} == CODES


def test_drawing_shows_what_is_below_what() -> None:
    stack, drawn = [""], {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)(\w+) +\d+ ", line):
            depth = len(found[1]) // 4
            stack[depth:] = [found[2]]
            drawn[found[2]] = stack[depth - 1] if depth else "Exception"
    assert drawn == {one.__name__: one.__base__.__name__ for one in tree(MiadError)}


def test_every_code_has_its_rank() -> None:
    assert (*ORDER, 0) == PRECEDENCE
    assert set(CODES.values()) <= set(ORDER)


@pytest.mark.parametrize(("stronger", "weaker"), list(combinations(ORDER, 2)))
def test_stronger_code_wins_in_any_order(stronger: int, weaker: int) -> None:
    assert exit_code_of([weaker, stronger, 0]) == stronger
    assert exit_code_of([stronger, weaker]) == stronger


def test_nothing_wrong_is_zero() -> None:
    assert exit_code_of([]) == 0
    assert exit_code_of([0, 0]) == 0


def test_unknown_code_counts_as_internal() -> None:
    assert exit_code_of([0, 77]) == 1


def test_error_says_what_and_what_to_do() -> None:
    error = errors.KeyUnusable("it does not open", "Try another.")
    assert (str(error), error.message, error.hint) == (
        "it does not open",
        "it does not open",
        "Try another.",
    )
