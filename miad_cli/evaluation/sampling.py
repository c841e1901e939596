"""A sample that is fair to classes and groups, and the same on any machine."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar


class Drawable(Protocol):
    """What a sample is drawn from."""

    @property
    def reference(self) -> int: ...
    @property
    def label(self) -> int | None: ...
    @property
    def group(self) -> str: ...


D = TypeVar("D", bound=Drawable)


def drawn_in_turn(
    cases: Sequence[D], seed: int, taken: Mapping[int | None, int], most: int | None
) -> Iterator[D]:
    """All cases, or until `most` were `taken` of each class: classes take turns."""
    order: dict[int | None, list[D]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: _lot(seed, f"case {case.reference}")):
        order[case.label].append(case)
    used: Counter[str] = Counter()
    labels = sorted(order, key=lambda label: -1 if label is None else label)
    turns = {label: _by_group(order[label], seed, used) for label in labels}
    while turns:
        for label in list(turns):
            full = most is not None and taken[label] >= most
            drawn = None if full else next(turns[label], None)
            if drawn is None:
                del turns[label]
            else:
                yield drawn


def _by_group(cases: Sequence[D], seed: int, used: Counter[str]) -> Iterator[D]:
    """Cases of one class, in rounds: a group gives its next one when every group gave one.

    `used` counts what groups gave to any class; within a round those go first that gave least.
    """
    waiting: dict[str, list[D]] = defaultdict(list)
    for case in reversed(cases):
        waiting[case.group].append(case)
    heap = [(0, 0, _lot(seed, f"group {group}"), group) for group in waiting]
    heapq.heapify(heap)
    while heap:
        given, before, lot, group = heapq.heappop(heap)
        if used[group] > before:  # it gave to another class meanwhile: look again at its new place
            heapq.heappush(heap, (given, used[group], lot, group))
            continue
        used[group] += 1
        yield waiting[group].pop()
        if waiting[group]:
            heapq.heappush(heap, (given + 1, used[group], lot, group))


def _lot(seed: int, what: str) -> bytes:
    """A place in an order that depends on the seed alone, not on a library's generator."""
    return hashlib.blake2b(f"{seed} {what}".encode(), digest_size=16).digest()
