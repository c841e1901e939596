"""Pixels and voxels of any two grids: against all pairs, one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from patients import rotation

from miad_cli.imaging.geometry import Plane
from miad_cli.imaging.voxels import Voxels

sizes = st.tuples(*[st.integers(1, 6)] * 3)
lengths = st.sampled_from([0.4, 1.0, 1.7, 5.0])
angles = st.sampled_from([0.0, 20.0, 45.0, 90.0, 133.0])


def pair(size, steps, shift, seed, turn):  # type: ignore[no-untyped-def]
    """A grid with random marks along the axes, and a plane turned against it through it."""
    generator = np.random.default_rng(seed)
    marked = generator.random(size[::-1]) < 0.15
    grid = Voxels.of(marked, np.array([3.0, -4.0, 5.0]), np.diag(steps[:3]), np.zeros(3))
    turned = rotation(*turn)
    middle = grid.origin + np.diag(steps[:3]) @ (np.array(size) - 1) / 2
    plane_steps = turned[:, :2] * steps[3:5]
    origin = middle + np.array(shift) - plane_steps @ (3, 2.5)
    return marked, grid, Plane(origin, plane_steps, 6, 7, steps[5])


@settings(max_examples=150, deadline=None)
@given(sizes, st.tuples(*[lengths] * 6), st.tuples(*[st.floats(-3, 3)] * 3), st.integers(0, 9999))
def test_parallel_grids_meet_exactly_where_their_blocks_overlap(
    size: tuple[int, int, int],
    steps: tuple[float, ...],
    shift: tuple[float, float, float],
    seed: int,
) -> None:
    marked, grid, plane = pair(size, steps, shift, seed, (0, 0, 0))
    found = grid.on(plane)
    for y in range(plane.rows):
        for x in range(plane.columns):
            centre = plane.origin + plane.steps @ (x, y)
            half = np.array([steps[3], steps[4], steps[5]]) / 2
            surely = possibly = False
            for z_of, y_of, x_of in np.argwhere(marked):
                voxel = grid.origin + np.array(steps[:3]) * (x_of, y_of, z_of)
                overlap = half + np.array(steps[:3]) / 2 - np.abs(centre - voxel)
                share = (overlap / steps[:3]).min()  # 0.01 of a voxel counts as touching
                surely |= bool(share > 0.011)
                possibly |= bool(share > 0.009)
            assert surely <= found[y, x] <= possibly


@settings(max_examples=150, deadline=None)
@given(
    sizes,
    st.tuples(*[lengths] * 6),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.integers(0, 9999),
    st.tuples(angles, angles, angles),
)
def test_no_point_of_a_pixel_lies_in_a_marked_voxel_unmarked(
    size: tuple[int, int, int],
    steps: tuple[float, ...],
    shift: tuple[float, float, float],
    seed: int,
    turn: tuple[float, float, float],
) -> None:
    marked, grid, plane = pair(size, steps, shift, seed, turn)
    found = grid.on(plane)
    generator = np.random.default_rng(seed)
    y, x = np.indices(found.shape)
    for _ in range(40):
        within = generator.random((3, *found.shape)) - 0.5
        points = (
            plane.origin
            + (x + within[0])[..., None] * plane.steps[:, 0]
            + (y + within[1])[..., None] * plane.steps[:, 1]
            + (within[2] * plane.thickness)[..., None] * plane.normal
        )
        place = (points - grid.origin) / steps[:3]
        nearest = np.rint(place).astype(int)
        # A hundredth of a voxel next to its border counts as the border.
        inside = (np.abs(place - nearest) < 0.489).all(axis=-1)
        inside &= ((nearest >= 0) & (nearest < size)).all(axis=-1)
        clipped = np.clip(nearest, 0, np.array(size) - 1)
        hit = inside & marked[clipped[..., 2], clipped[..., 1], clipped[..., 0]]
        assert not (hit & ~found).any()


def test_large_planes_and_grids_are_looked_at_in_parts(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    _, grid, plane = pair((6, 6, 6), (1.0,) * 6, (0.3, 0.2, 0.1), 5, (20.0, 45.0, 133.0))
    whole = grid.on(plane)
    assert whole.any() and not whole.all()
    monkeypatch.setattr("miad_cli.imaging.voxels._LARGEST_BLOCK", 3)
    monkeypatch.setattr("miad_cli.imaging.voxels._LARGEST_AREA", 4)
    np.testing.assert_array_equal(grid.on(plane), whole)
