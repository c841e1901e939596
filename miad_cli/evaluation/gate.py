"""The line that a release must hold: `--fail-if "unseen.accuracy > 0.4"`.

    gate       := all { "or" all }
    all        := comparison { "and" comparison }
    comparison := NAME ("<" | "<=" | ">" | ">=" | "==" | "!=") NUMBER [ "%" ]

A NAME is a figure of the report; `.low`, `.high` and `.n` behind it are the ends of its interval
and its sample size. `and` binds more closely than `or`; there are no parentheses, since several
`--fail-if` may be given. A figure that is not there never passes: it is a violation of its own.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from miad_cli.errors import UsageError

PARTS = ("value", "low", "high", "n")
"""What may be asked of a figure; `value` is what the name alone means."""

LONGEST = 1000
"""Characters of an expression; more is no expression that a person wrote."""

BOUNDED = {"accuracy": (0.0, 1.0), "auc": (0.0, 1.0), "ssim": (-1.0, 1.0)}
"""Figures that cannot leave a range, by the last part of their name. A number outside of it is a
slip (40 where 0.4 was meant), and such a gate would never fail."""

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

_TOKEN = re.compile(
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?%?(?![\w.]))"
    r"|(?P<name>[^\W\d](?:[\w.+-]*\w)?)"
    r"|(?P<relation>[<>=!]+)"
)

_HINT = 'Write it like --fail-if "unseen.accuracy > 0.4 and unseen.accuracy.n >= 20".'


class Measured(Protocol):
    """A figure with its 95 % interval and the number of pictures behind it."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def n(self) -> int: ...


Values = Mapping[str, "Measured | float"]


@dataclass(frozen=True)
class Violation:
    """A gate that does not hold.

    Attributes:
        gate: the expression as it was given.
        sentence: what was measured, for people.
        missing: it does not hold because something was not measured.
    """

    gate: str
    sentence: str
    missing: bool


@dataclass(frozen=True)
class Comparison:
    """`name relation limit`; `column` (from 1) is where the name stands in the expression."""

    name: str
    relation: str
    limit: float
    column: int

    def holds(self, measured: float) -> bool:
        return _RELATIONS[self.relation](measured, self.limit)

    def sentence(self, values: Values) -> str:
        """What is measured, and how it compares."""
        return f"{self.name} is {_described(self.name, values)}, {self._compared}"

    @property
    def _compared(self) -> str:
        words = {
            "<": "less than", "<=": "not more than", ">": "more than", ">=": "not less than",
            "==": "exactly", "!=": "not exactly",
        }  # fmt: skip
        return f"{words[self.relation]} {self.limit:g}"


@dataclass(frozen=True)
class Gate:
    """An expression that must not become true.

    Attributes:
        alternatives: comparisons that are joined by `and`, joined by `or`.
    """

    text: str
    alternatives: tuple[tuple[Comparison, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read an expression.

        Raises:
            UsageError: it is none; the message names the column.
        """
        return _Parser(text).gate()

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return tuple(one for every in self.alternatives for one in every)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in it, each once, with `.low`, `.high` or `.n` where it was written."""
        return tuple(dict.fromkeys(one.name for one in self.comparisons))

    def require(self, measured: Collection[str], unplanned: Collection[str] = ()) -> None:
        """Refuse names that this run will not measure, before it starts.

        Args:
            measured: the names of all figures that will be there.
            unplanned: names of figures that protocols left out of this run would give.

        Raises:
            UsageError: a name is neither of `measured` nor a part of one.
        """
        for one in self.comparisons:
            if _figure(one.name, measured) is not None:
                continue
            where = f'--fail-if "{self.text}", column {one.column}: '
            if _figure(one.name, unplanned) is not None:
                raise UsageError(
                    f"{where}this run does not measure {one.name}",
                    hint=f"Name the protocol that does: --protocol {one.name.split('.')[0]}.",
                )
            raise UsageError(
                f"{where}there is no figure {one.name}", hint=_nearest(one.name, measured)
            )

    def check(self, values: Values) -> list[Violation]:
        """What does not hold: nothing, or one violation.

        A figure that is missing (or is no number) is a violation even where another part of the
        expression would decide it, unless the rest is true and so a violation anyway.
        """
        for every in self.alternatives:
            if all(_is_true(one, values) for one in every):
                sentence = "; ".join(one.sentence(values) for one in every)
                return [Violation(self.text, sentence, missing=False)]
        absent = [name for name in self.names if measured(name, values) is None]
        if not absent:
            return []
        verb = "was" if len(absent) == 1 else "were"
        sentence = f"{' and '.join(absent)} {verb} not measured, so nobody knows whether it holds"
        return [Violation(self.text, sentence, missing=True)]


def check_all(gates: Iterable[Gate], values: Values) -> list[Violation]:
    """The violations of several gates, in their order."""
    return [violation for gate in gates for violation in gate.check(values)]


def measured(name: str, values: Values) -> float | None:
    """The number behind a name; None where nothing, or no number, was measured."""
    figure = _figure(name, values)
    if figure is None:
        return None
    part = name[len(figure) + 1 :] or "value"
    found = values[figure]
    if isinstance(found, int | float):
        number = float(found) if part == "value" else math.nan
    else:
        number = float(
            {"value": found.value, "low": found.low, "high": found.high, "n": found.n}[part]
        )
    return None if math.isnan(number) else number


def _is_true(one: Comparison, values: Values) -> bool:
    number = measured(one.name, values)
    return number is not None and one.holds(number)


def _figure(name: str, known: Collection[str]) -> str | None:
    """The figure that a name means: itself, or what stands before its last part; None: neither."""
    if name in known:
        return name
    figure, _, part = name.rpartition(".")
    return figure if part in PARTS and figure in known else None


def _nearest(name: str, known: Collection[str]) -> str:
    figure, _, part = name.rpartition(".")
    asked = figure if part in PARTS else name
    near = difflib.get_close_matches(asked, sorted(known), n=3, cutoff=0.5)
    # `accuracy` alone is near to nothing and means the ends of several.
    near += [one for one in sorted(known) if one.endswith(f".{asked}") and one not in near][:3]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    some = ", ".join(sorted(known)[:8])
    return f"This run measures {some}{', …' if len(known) > 8 else ''}." if some else ""


def _described(name: str, values: Values) -> str:
    number = measured(name, values)
    shown = f"{number:.4g}"
    found = values.get(name)
    if found is None or isinstance(found, int | float):
        return shown
    return f"{shown} (95 % interval {found.low:.4g} to {found.high:.4g}, n = {found.n})"


class _Parser:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def gate(self) -> Gate:
        if len(self._text) > LONGEST:
            raise UsageError(
                f"--fail-if: an expression of more than {LONGEST} characters",
                hint="Give several --fail-if instead.",
            )
        alternatives = [[self._comparison()]]
        while (joint := self._joint()) is not None:
            if joint == "or":
                alternatives.append([])
            alternatives[-1].append(self._comparison())
        return Gate(self._text.strip(), tuple(tuple(every) for every in alternatives))

    def _joint(self) -> str | None:
        if self._rest() == "":
            return None
        column, kind, token = self._next("`and` or `or`")
        if kind != "name" or token not in ("and", "or"):
            raise self._refusal(column, f"expected `and` or `or`, found {_quoted(token)}")
        return token

    def _comparison(self) -> Comparison:
        column, kind, name = self._next("the name of a figure")
        if kind != "name" or name in ("and", "or"):
            raise self._refusal(column, f"expected the name of a figure, found {_quoted(name)}")
        at, _, relation = self._next("a comparison such as >")
        if relation not in _RELATIONS:
            known = " ".join(_RELATIONS)
            raise self._refusal(at, f"expected one of {known}, found {_quoted(relation)}")
        at, kind, number = self._next("a number")
        if kind != "number":
            raise self._refusal(at, f"expected a number, found {_quoted(number)}")
        limit = float(number.rstrip("%")) / (100 if number.endswith("%") else 1)
        self._refuse_endless(at, name, limit)
        return Comparison(name, relation, limit, column)

    def _refuse_endless(self, column: int, name: str, limit: float) -> None:
        """A limit that the figure can never reach makes a gate that says nothing."""
        parts = name.split(".")
        figure = parts[-2] if parts[-1] in PARTS[:3] and len(parts) > 1 else parts[-1]
        low, high = BOUNDED.get(figure, (-math.inf, math.inf))
        if not low <= limit <= high:
            raise self._refusal(
                column, f"{name} lies between {low:g} and {high:g}, never at {limit:g}"
            )
        if math.isinf(limit):
            raise self._refusal(column, "the number is too large")

    def _next(self, expected: str) -> tuple[int, str, str]:
        """Column, kind and text of the next token."""
        rest = self._rest()
        column = self._at + 1
        if not rest:
            raise self._refusal(column, f"expected {expected}, found the end")
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            token = rest.split()[0]
            what = f"expected {expected}, found {_quoted(token)}"
            if re.match(r",\d", token):
                what += "; decimals have a point"
            if token[0] in "()":
                what = "there are no parentheses; give several --fail-if"
            raise self._refusal(column, what)
        self._at = match.end()
        return column, str(match.lastgroup), match.group()

    def _rest(self) -> str:
        rest = self._text[self._at :].lstrip()
        self._at = len(self._text) - len(rest)
        return rest

    def _refusal(self, column: int, what: str) -> UsageError:
        return UsageError(f'--fail-if "{self._text}", column {column}: {what}', hint=_HINT)


def _quoted(token: str) -> str:
    return f"`{token}`"
