"""The gate: what is read, what is refused and where, and that nothing passes unmeasured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miad_cli.errors import UsageError
from miad_cli.evaluation.gate import LONGEST, Comparison, Gate, check_all


@dataclass(frozen=True)
class Figure:
    value: float
    low: float
    high: float
    n: int


VALUES = {
    "unseen.accuracy": Figure(0.5, 0.4, 0.6, 25),
    "removal.psnr": Figure(math.inf, 30.0, math.inf, 25),
    "seen.auc": Figure(math.nan, math.nan, math.nan, 0),
    "unseen.queries": 34,
}


def holds(text: str) -> bool:
    return not Gate.parse(text).check(VALUES)


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as error:
        Gate.parse(text)
    return error.value.message


@pytest.mark.parametrize(
    ("text", "violated"),
    [
        ("unseen.accuracy > 0.4", True),
        ("unseen.accuracy > 0.5", False),
        ("unseen.accuracy >= 0.5", True),
        ("unseen.accuracy < 0.5", False),
        ("unseen.accuracy<=.5", True),
        ("unseen.accuracy == 0.5", True),
        ("unseen.accuracy != 0.5", False),
        ("unseen.accuracy > 40%", True),
        ("unseen.accuracy > 5e-1", False),
        ("unseen.accuracy.high > 0.55", True),
        ("unseen.accuracy.low > 0.45", False),
        ("unseen.accuracy.value > 0.45", True),
        ("unseen.accuracy.n < 26", True),
        ("unseen.queries > 33.5", True),
        ("removal.psnr > 1e6", True),
        ("unseen.accuracy > 0.4 and unseen.queries > 100", False),
        ("unseen.queries > 100 or unseen.accuracy > 0.4", True),
        # Read from the left, this would be (true or true) and false.
        ("unseen.accuracy > 0.4 or unseen.accuracy > 0.4 and unseen.queries > 100", True),
    ],
)
def test_an_expression_is_violated_where_it_is_true(text: str, violated: bool) -> None:
    assert holds(text) is not violated


def test_a_violation_says_what_was_measured() -> None:
    (violation,) = Gate.parse(" unseen.accuracy > 0.4 and unseen.queries >= 34 ").check(VALUES)
    assert violation.gate == "unseen.accuracy > 0.4 and unseen.queries >= 34"
    assert not violation.missing
    assert violation.sentence == (
        "unseen.accuracy is 0.5 (95 % interval 0.4 to 0.6, n = 25), more than 0.4; "
        "unseen.queries is 34, not less than 34"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("removal.accuracy < 0.4", "removal.accuracy"),
        ("seen.auc > 0.9", "seen.auc"),  # not a number
        ("unseen.queries.high > 40", "unseen.queries.high"),  # has no interval
        ("unseen.queries.n < 1", "unseen.queries.n"),
        ("removal.accuracy > 0.4 and unseen.accuracy > 0.9", "removal.accuracy"),
        ("unseen.accuracy > 0.9 or removal.accuracy > 0.4", "removal.accuracy"),
    ],
)
def test_what_was_not_measured_never_passes(text: str, name: str) -> None:
    (violation,) = Gate.parse(text).check(VALUES)
    assert violation.missing
    assert violation.sentence.startswith(f"{name} was not measured")


def test_a_missing_figure_does_not_hide_a_true_part() -> None:
    (violation,) = Gate.parse("removal.accuracy > 0.4 or unseen.accuracy > 0.4").check(VALUES)
    assert not violation.missing


def test_several_gates_are_checked_in_order() -> None:
    texts = ("unseen.queries > 30", "unseen.accuracy < 0.1", "nothing > 1")
    violations = check_all(map(Gate.parse, texts), VALUES)
    assert [one.gate for one in violations] == [texts[0], texts[2]]


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "the name of a figure, found the end"),
        ("   ", 4, "found the end"),
        ("unseen.accuracy", 16, "expected a comparison such as >, found the end"),
        ("unseen.accuracy >", 18, "expected a number, found the end"),
        ("unseen.accuracy = 0.4", 17, "found `=`"),
        ("unseen.accuracy => 0.4", 17, "found `=>`"),
        ("unseen.accuracy ~ 0.4", 17, "found `~`"),
        ("unseen.accuracy > high", 19, "expected a number, found `high`"),
        ("unseen.accuracy > nan", 19, "expected a number, found `nan`"),
        ("unseen.accuracy > 0,4", 20, "decimals have a point"),
        ("unseen.accuracy > 0.4x", 19, "found `0.4x`"),
        ("0.4 < unseen.accuracy", 1, "the name of a figure, found `0.4`"),
        ("unseen.accuracy > 0.4 xor a > 1", 23, "expected `and` or `or`, found `xor`"),
        ("unseen.accuracy > 0.4 and", 26, "found the end"),
        ("and > 1", 1, "the name of a figure, found `and`"),
        ("(unseen.accuracy > 0.4)", 1, "no parentheses"),
        ("a.b > 1 or __import__('os') > 1", 22, "no parentheses"),
        ("unseen.accuracy > 40", 19, "lies between 0 and 1"),
        ("unseen.accuracy.high > 1.01", 24, "lies between 0 and 1"),
        ("removal.ssim < -2", 16, "lies between -1 and 1"),
        ("removal.psnr > 1e999", 16, "too large"),
    ],
)
def test_a_fault_is_named_with_its_column(text: str, column: int, said: str) -> None:
    message = refusal(text)
    assert f"column {column}: " in message
    assert said in message


def test_a_sample_size_is_no_share() -> None:
    assert not holds("unseen.accuracy.n < 400")


def test_an_endless_expression_is_refused() -> None:
    assert "characters" in refusal("a > 1 or " * LONGEST)


def test_names_are_looked_up_before_anything_is_measured() -> None:
    gate = Gate.parse("unseen.accuracy.high > 0.4 and unseen.acuracy < 0.1")
    with pytest.raises(UsageError) as error:
        gate.require(["unseen.accuracy", "seen.accuracy", "removal.psnr"])
    assert "column 32" in error.value.message and "unseen.acuracy" in error.value.message
    assert "unseen.accuracy" in error.value.hint and "psnr" not in error.value.hint
    Gate.parse("unseen.accuracy.high > 0.4").require(["unseen.accuracy"])


def test_a_part_alone_leads_to_the_figures_that_end_in_it() -> None:
    with pytest.raises(UsageError) as error:
        Gate.parse("psnr < 30").require(["seen.accuracy", "removal.splitnet.psnr"])
    assert "removal.splitnet.psnr" in error.value.hint


def test_a_protocol_that_is_left_out_is_named() -> None:
    with pytest.raises(UsageError) as error:
        Gate.parse("removal.psnr.low < 30").require(["seen.accuracy"], ["removal.psnr"])
    assert "--protocol removal" in error.value.hint


NAMES = st.sampled_from(["a", "unseen.accuracy", "ssim.low", "robust.jpeg-75.n", "order", "and_1"])
COMPARISONS = st.builds(
    Comparison,
    name=NAMES,
    relation=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    limit=st.floats(0, 1),
    column=st.just(0),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(COMPARISONS, min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_what_is_written_is_what_is_read(
    alternatives: list[list[Comparison]], data: st.DataObject
) -> None:
    """Any expression, with any blanks, means what its parts mean."""
    text = " or ".join(
        " and ".join(f"{one.name}{gap}{one.relation}{gap}{one.limit!r}" for one in every)
        for every in alternatives
        for gap in [data.draw(st.sampled_from(["", " ", "  "]))]
    )
    gate = Gate.parse(text)
    read = [[(one.name, one.relation, one.limit) for one in every] for every in gate.alternatives]
    assert read == [[(o.name, o.relation, o.limit) for o in every] for every in alternatives]
    for one in gate.comparisons:
        assert text[one.column - 1 :].startswith(one.name)
    values = {name: data.draw(st.floats(0, 1)) for name in gate.names}
    wanted = any(all(one.holds(values[one.name]) for one in every) for every in gate.alternatives)
    assert bool(gate.check(values)) is wanted


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("<>=!.0123456789 andorxy%,()", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        gate = Gate.parse(text)
    except UsageError as error:
        assert "column " in error.message
    else:
        assert gate.comparisons
        assert all(one.missing for one in gate.check({}))
        assert gate.check({})
