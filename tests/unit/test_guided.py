"""Guided search: maps against brute force, what is learned, and what is asked and found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import noisy_logo, opaque_logo, write_convolutional_model, write_flat_model

from miad_cli.imaging.image import MedicalImage, Window
from miad_cli.models import bank as bank_room
from miad_cli.models.bank import Bank, load_bank
from miad_cli.models.manifest import InputSpec
from miad_cli.models.session import Device, model_input
from miad_cli.watermark import guided as guided_room
from miad_cli.watermark import slopes as slopes_room
from miad_cli.watermark.blend import Mark
from miad_cli.watermark.ensemble import Disturbance, Ensemble, feature_distance
from miad_cli.watermark.guided import (
    ALPHAS,
    RESERVE,
    SHADE,
    TINT,
    TURN,
    Plan,
    guided,
    modest_sit,
)
from miad_cli.watermark.interpolation import Interpolation
from miad_cli.watermark.lesions import Box
from miad_cli.watermark.panel import DISTURBANCES, Panel, blurred, shifted, shortfall
from miad_cli.watermark.placement import Candidate, Placement
from miad_cli.watermark.search import Found
from miad_cli.watermark.slopes import Slopes, lattice_of, on_view, stride_for

BOXES = (Box(30, 30, 14, 20), Box(5, 60, 25, 10))
SMALL = Plan(seeds=18, rounds=3, children=8, sits=4)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bank_room, "models_directory", lambda: tmp_path)
    return tmp_path


def bank_of(task: str | None = "toy") -> Bank:
    return load_bank(task, (), None, Device())


def query_only(folder: Path) -> None:
    path = folder / "manifest.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[input]", 'query_only = "made so"\n\n[input]', 1))


def picture(rows: int = 20, columns: int = 26, samples: int = 1, **more: Any) -> MedicalImage:
    """16 bits, so that rounding to stored values makes no difference."""
    stored = np.random.default_rng(3).integers(0, 60001, (1, rows, columns, samples), np.int32)
    stored[:, : rows // 3, : columns // 3] = 5  # black, or padding
    return MedicalImage(stored, (0, 65535), Window(0, 60000), **more)


def generator(seed: int = 2023) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- First-order maps ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "channels", "layout", "more"),
    [
        (1, 3, "NCHW", {}),
        (3, 3, "NHWC", {}),
        (3, 1, "NCHW", {}),
        (1, 1, "NHWC", {"inverted": True}),
        (1, 3, "NCHW", {"padding": (0, 10)}),
    ],
)
def test_map_of_a_linear_model_is_what_every_place_does(
    models: Path,
    samples: int,
    channels: int,
    layout: str,
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("miad_cli.models.gradients.knows_bfloat16", lambda: False)
    write_flat_model(models / "flat", layout=layout, channels=channels, kind="logits")
    image = picture(samples=samples, **more)
    ensemble, logo = Ensemble(bank_of(), image), noisy_logo(7, 9)
    slopes = Slopes([ensemble], [1], [Mark(3, 2, 60, logo)])
    change = slopes.change(logo)
    corners = list(product(range(14), range(18)))
    marks = [Mark(x, y, 255, logo) for y, x in corners]
    margins = np.array([one.margins(1) for one in ensemble.opinions_with(marks)])
    brute = (margins - ensemble.clean.margins(1)).reshape(14, 18)
    assert change.shape == (1, 14, 18)
    assert brute.std() > 0.05
    np.testing.assert_allclose(change[0], brute, atol=0.002)
    np.testing.assert_allclose(slopes.base, ensemble.clean.margins(1))


def test_map_of_a_large_picture_is_exact_where_cells_are_plain(models: Path) -> None:
    write_flat_model(models / "flat", layout="NCHW", channels=3, kind="logits")
    stored = picture(112, 130).stored.repeat(2, axis=1).repeat(2, axis=2)
    image = MedicalImage(stored, (0, 65535), Window(0, 60000))
    assert stride_for(image.rows, image.columns) == 2
    ensemble = Ensemble(bank_of(), image)
    logo = noisy_logo(40, 30).repeat(2, axis=0).repeat(2, axis=1)
    change = Slopes([ensemble], [0], [Mark(0, 0, 60, logo)]).change(logo)[0]
    assert change.shape == lattice_of(224, 260, 80, 60, 2) == (73, 101)
    places = [(0, 0), (10, 71), (72, 100), (35, 2)]
    marks = [Mark(2 * x, 2 * y, 255, logo) for y, x in places]
    brute = [one.margins(0) - ensemble.clean.margins(0) for one in ensemble.opinions_with(marks)]
    np.testing.assert_allclose([change[place] for place in places], np.ravel(brute), atol=0.002)


def test_voices_are_those_of_every_model_on_every_shot(models: Path) -> None:
    write_flat_model(models / "a", layout="NCHW", channels=3, kind="logits")
    write_convolutional_model(models / "b")
    query_only(models / "b")
    bank = bank_of()
    shots = [Ensemble(bank, picture()), Ensemble(bank, picture(inverted=True))]
    marks = [Mark(3, 2, 150, noisy_logo(7, 9)), Mark(1, 9, 250, noisy_logo(7, 9))]
    panel = Panel(shots, label=0)
    values = panel.values(marks)
    for number, mark in enumerate(marks):
        expected = [one.opinion_with(mark).margins(0) for one in shots]
        np.testing.assert_allclose(values[number], np.concatenate(expected), atol=1e-4)
    slopes = panel.slopes(marks)
    assert slopes is not None
    assert slopes.known.tolist() == [True, False, True, False]
    assert not slopes.change(marks[0].logo)[[1, 3]].any()


@pytest.mark.parametrize("task", ["toy", None])
def test_some_models_answer_as_they_do_among_all(models: Path, task: str | None) -> None:
    for seed, name in enumerate("abc"):
        write_convolutional_model(models / name, bias=0.6 + seed / 4)
    bank = bank_of(task)
    shots = [Ensemble(bank, picture()), Ensemble(bank, picture(inverted=True))]
    marks = [Mark(3, 2, 150, noisy_logo(7, 9)), Mark(1, 9, 250, noisy_logo(7, 9))]
    everyone, some = Panel(shots), Panel(shots, numbers=[0, 2])
    np.testing.assert_allclose(some.values(marks), everyone.values(marks)[:, [0, 2, 3, 5]])
    slopes = some.slopes(marks)
    assert slopes is not None
    assert len(slopes.base) == 4


def test_without_a_label_each_shot_is_to_lose_its_own(models: Path) -> None:
    """The convolutional model says 0 of red and 1 of green."""
    write_convolutional_model(models / "b")
    bank, shots = bank_of(), []
    for channel in (0, 1):
        stored = np.zeros((1, 9, 9, 3), np.int32)
        stored[..., channel] = 255
        shots.append(Ensemble(bank, MedicalImage(stored, (0, 255), Window(0, 255))))
    assert [one.clean.label for one in shots] == [0, 1]
    nothing = Mark(0, 0, 255, np.zeros((4, 4, 4), np.uint8))
    assert (Panel(shots).values([nothing]) > 0.1).all()
    assert (Panel(shots, 0).values([nothing]) > 0.1).tolist() == [[True, False]]


def test_map_without_a_task_is_how_far_features_move(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slopes_room, "PROJECTIONS", 400)
    write_convolutional_model(models / "looking")
    ensemble = Ensemble(bank_of(None), picture())
    logo = opaque_logo(7, 9, (250, 20, 90))
    slopes = Slopes([ensemble], [None], [])
    change = slopes.change(logo)[0]
    places = [(0, 0), (4, 4), (11, 15), (2, 13)]
    marks = [Mark(x, y, 12, logo) for y, x in places]
    opinions = ensemble.opinions_with(marks)
    moved = [-feature_distance(ensemble.clean, one) * 255 / 12 for one in opinions]
    np.testing.assert_allclose([change[place] for place in places], moved, rtol=0.15)
    assert slopes.base.tolist() == [0]


@pytest.mark.parametrize(
    ("layout", "channels", "colours"),
    [("NCHW", 3, "RGB"), ("NCHW", 3, "BGR"), ("NHWC", 3, "BGR"), ("NHWC", 1, "RGB")],
)
def test_gradient_comes_back_the_way_the_view_went_in(
    layout: str, channels: int, colours: str
) -> None:
    spec = InputSpec(
        tensor="in", layout=layout, rows=8, columns=9, channels=channels, colours=colours,
        range=(-1, 3), mean=(0.2,) * channels, std=tuple(0.5 + n for n in range(channels)),
    )  # fmt: skip
    view, step = np.random.default_rng(1).random((2, 1, 3, 8, 9), np.float32)
    moved = model_input(view + step, spec) - model_input(view, spec)
    gradient = np.random.default_rng(2).random(moved.shape, np.float32)
    assert (gradient * moved).sum() == pytest.approx((on_view(gradient, spec) * step).sum(), 1e-4)


# --- What the answers teach ---------------------------------------------------------------------


def test_interpolation_foresees_what_was_left_out() -> None:
    points = np.random.default_rng(4).uniform(0, 3, (70, 2))
    values = np.stack([np.sin(points[:, 0]) * points[:, 1], np.cos(points.sum(axis=1))], axis=1)
    learned = Interpolation(points[:50], values[:50], np.zeros((50, 1)))
    missed = learned.predict(points[50:], np.zeros((20, 1))) - values[50:]
    assert (missed.std(axis=0) < 0.2 * values.std(axis=0)).all()


@pytest.mark.parametrize(("sign", "follows"), [(1, True), (-1, False)])
def test_maps_count_as_far_as_the_answers_bear_them_out(sign: int, follows: bool) -> None:
    """Points out of each other's reach: only the map can tell anything."""
    points = np.arange(40.0)[:, None] * 10
    expected = np.random.default_rng(5).normal(size=(40, 1))
    learned = Interpolation(points[:30], 7 + sign * expected[:30], expected[:30])
    predicted = learned.predict(points[30:], expected[30:])
    wanted = 7 + expected[30:] if follows else np.full((10, 1), (7 - expected[:30]).mean())
    np.testing.assert_allclose(predicted, wanted, atol=0.01)


def test_points_to_ask_next_are_the_lowest_and_no_twins() -> None:
    points = np.array([[0.0], [4.0], [8.0]])
    learned = Interpolation(points, np.array([[0.0], [-5.0], [3.0]]), np.zeros((3, 1)))
    new = np.array([[0.1], [4.2], [4.21], [3.6], [8.1]])
    chosen = learned.ask_next(new, np.zeros((5, 1)), 2, lambda values: values[:, 0])
    assert chosen[0] in (1, 2, 3)
    assert {1, 2} - set(chosen)


# --- What is asked and what is found ------------------------------------------------------------


class Toy:
    """A scorer that remembers its questions; no gradients."""

    can_be_fooled = True

    def __init__(self, value: Callable[[Mark], Sequence[float]]) -> None:
        self._value = value
        self.plain: list[Mark] = []
        self.disturbed: list[Mark] = []

    def values(self, marks: Sequence[Mark], disturbance: Disturbance | None = None) -> Any:
        (self.plain if disturbance is None else self.disturbed).extend(marks)
        return np.array([self._value(mark) for mark in marks], np.float32)

    def slopes(self, marks: Sequence[Mark]) -> None:
        return None


def valley(mark: Mark) -> list[float]:
    """Two voices with their lowest values at different places; nothing fools them."""
    return [
        5 + (mark.x - 50) ** 2 / 800 + (mark.y - 7) ** 2 / 800,
        4 + (mark.x - 58) ** 2 / 800 + (mark.y - 12) ** 2 / 800 - mark.alpha / 255,
    ]


def placement_of(boxes: Sequence[Box] = BOXES, side: int = 90) -> Placement:
    return Placement(opaque_logo(60, 60), side, side, 4, boxes)


def test_found_is_better_than_any_seed_and_near_the_best() -> None:
    toy = Toy(valley)
    found = guided(placement_of(), toy, SMALL, generator())
    values = np.array([valley(mark) for mark in toy.plain])
    left = shortfall(values, SMALL.target + RESERVE)
    assert found.score.fitness == pytest.approx(left.min(), abs=1e-4)
    assert left[SMALL.seeds :].min() < left[: SMALL.seeds].min()
    assert abs(found.candidate.x - 54) + abs(found.candidate.y - 10) < 16
    assert not found.score.fooled


@pytest.mark.parametrize("seed", range(3))
def test_everything_that_is_asked_is_feasible_and_bounded(seed: int) -> None:
    toy, placement = Toy(valley), placement_of()
    found = guided(placement, toy, SMALL, generator(seed))
    assert placement.is_feasible(found.candidate)
    for mark in toy.plain:
        height, width = mark.logo.shape[:2]
        assert mark.x >= 0
        assert mark.y >= 0
        assert mark.x + width <= 90
        assert mark.y + height <= 90
        assert not any(box.meets(Box(mark.x, mark.y, width, height)) for box in BOXES)
        assert ALPHAS[0] <= mark.alpha <= ALPHAS[1]


def test_sit_is_modest() -> None:
    drawn = [modest_sit(generator(seed)) for seed in range(200)]
    assert max(abs(one.degrees) for one in drawn) <= TURN
    assert all(min(one.hue, 256 - one.hue) <= TINT for one in drawn)
    assert all(abs(part - 100) <= SHADE for one in drawn for part in (one.saturation, one.value))
    assert len(set(drawn)) == 200


def test_same_generator_same_questions() -> None:
    def asked(seed: int) -> list[tuple[int, int, int]]:
        toy = Toy(valley)
        guided(placement_of(), toy, SMALL, generator(seed))
        return [(mark.x, mark.y, mark.alpha) for mark in toy.plain]

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_queries_are_all_that_a_model_was_asked() -> None:
    toy = Toy(valley)
    found = guided(placement_of(), toy, SMALL, generator())
    assert found.queries == len(toy.plain) + len(toy.disturbed)
    assert len(toy.plain) == SMALL.seeds + SMALL.rounds * SMALL.children
    assert len({(mark.x, mark.y, mark.alpha, mark.logo.tobytes()) for mark in toy.plain}) == len(
        toy.plain
    )


def test_search_ends_where_every_voice_is_fooled_by_the_target() -> None:
    toy = Toy(lambda mark: [-1.5, -2.0])
    found = guided(placement_of(), toy, SMALL, generator())
    assert found.score.fooled
    assert len(toy.plain) == SMALL.seeds
    almost = Toy(lambda mark: [-0.5, -2.0])
    assert guided(placement_of(), almost, SMALL, generator()).score.fooled
    assert len(almost.plain) == SMALL.seeds + SMALL.rounds * SMALL.children


def test_what_does_not_stand_a_disturbance_is_not_taken() -> None:
    """A corner fools by more, until it is disturbed."""

    class Fragile(Toy):
        def values(self, marks: Sequence[Mark], disturbance: Disturbance | None = None) -> Any:
            corner = np.array([mark.x + mark.y < 20 for mark in marks])
            values = super().values(marks, disturbance)
            lured = values - 0.4 + 9 * (disturbance is not None)
            return np.where(corner[:, None], lured, values)

    toy = Fragile(lambda mark: [-1.2])
    found = guided(placement_of(()), toy, SMALL, generator())
    assert found.candidate.x + found.candidate.y >= 20
    assert any(mark.x + mark.y < 20 for mark in toy.disturbed)


def test_one_free_corner_is_enough() -> None:
    """On a picture of two pixels a cell, at a corner that is no cell's."""
    logo = Placement(opaque_logo(60, 60), 300, 300, 4, ())
    size = logo.width
    boxes = (Box(0, 0, 101, 300), Box(101 + size, 0, 300, 300), Box(0, 0, 300, 51),
             Box(0, 51 + size, 300, 300))  # fmt: skip
    placement = Placement(opaque_logo(60, 60), 300, 300, 4, boxes)
    assert placement.feasible_corners().tolist() == [[101, 51]]
    found = guided(placement, Toy(valley), SMALL, generator())
    assert (found.candidate.x, found.candidate.y) == (101, 51)


def test_shortfall_counts_what_is_left_and_the_worst_most() -> None:
    values = np.array([[-3.0, -2.0], [-9.0, 1.0], [0.0, 0.0]])
    several = [0, (np.log(4) / 2 + np.log(4)) / 2, np.log(3)]
    np.testing.assert_allclose(shortfall(values, 2.0), several)
    np.testing.assert_allclose(shortfall(values, None), [-2.25, -1.5, 0])


@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_disturbances_keep_size_and_plain_views(disturbance: Disturbance) -> None:
    views = np.random.default_rng(0).random((2, 3, 8, 9), np.float32)
    assert disturbance(views).shape == views.shape
    assert np.abs(disturbance(views) - views).max() > 0.1
    np.testing.assert_allclose(disturbance(np.full_like(views, 0.3)), 0.3, rtol=1e-6)


def test_disturbances_do_what_they_are_called() -> None:
    spot = np.zeros((1, 3, 8, 9), np.float32)
    spot[..., 3, 4] = 1
    assert np.argwhere(shifted(spot)[0, 0]).tolist() == [[5, 6]]
    np.testing.assert_allclose(blurred(spot)[0, 1, 2:5, 3:6], np.outer([1, 2, 1], [1, 2, 1]) / 16)


# --- With models --------------------------------------------------------------------------------


def run_with(bank: Bank, label: int | None = None) -> tuple[Panel, Placement, Found]:
    panel = Panel([Ensemble(bank, picture(60, 60))], label)
    placement = Placement(opaque_logo(60, 60), 60, 60, 3, (Box(20, 20, 10, 10),))
    return panel, placement, guided(placement, panel, SMALL, generator())


def test_linear_model_is_brought_down_by_its_map_alone(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing but a seed of the map, as far as any upright logo can."""
    monkeypatch.setattr(guided_room, "DISTURBANCES", ())
    write_flat_model(models / "flat", layout="NCHW", channels=3, kind="logits")
    panel = Panel([Ensemble(bank_of(), picture(60, 60))])
    placement = Placement(opaque_logo(60, 60), 60, 60, 3, (Box(20, 20, 10, 10),))
    plan = Plan(seeds=3, rounds=0, sits=1, target=99)
    found = guided(placement, panel, plan, generator())
    marks = [
        placement.mark(Candidate(int(x), int(y), ALPHAS[1]))
        for x, y in placement.feasible_corners()
    ]
    best = shortfall(panel.values(marks).astype(float), 99 + RESERVE).min()
    assert found.score.fitness <= best + 1e-4


def test_models_without_gradients_are_searched_by_answers(models: Path) -> None:
    write_flat_model(models / "flat", layout="NCHW", channels=3, kind="logits")
    query_only(models / "flat")
    panel, placement, found = run_with(bank_of())
    assert panel.slopes([]) is None
    assert placement.is_feasible(found.candidate)
    clean = Ensemble(bank_of(), picture(60, 60)).clean.margins
    value = panel.values([placement.mark(found.candidate)])
    assert value.max() < clean(int(clean(0)[0] < 0)).max()


def test_study_of_no_known_task_is_moved_in_its_features(models: Path) -> None:
    write_convolutional_model(models / "looking")
    panel, placement, found = run_with(bank_of(None))
    assert not found.score.fooled
    ensemble = Ensemble(bank_of(None), picture(60, 60))
    distance = feature_distance(
        ensemble.clean, ensemble.opinion_with(placement.mark(found.candidate))
    )
    assert found.score.fitness == pytest.approx(-distance, rel=1e-4)
    assert found.queries == SMALL.seeds + SMALL.rounds * SMALL.children
    corners = placement.feasible_corners()[::97]
    others = [placement.mark(Candidate(int(x), int(y), ALPHAS[1])) for x, y in corners]
    assert found.score.fitness <= np.median(panel.values(others))
