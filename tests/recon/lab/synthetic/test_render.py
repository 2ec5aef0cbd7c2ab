"""The ray caster, compared with closed forms and with itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.lab.synthetic.paths import inverse_rigid, look_at, room_walk
from recon.lab.synthetic.render import render, render_colour, render_depth
from recon.lab.synthetic.scenes import Scene, Shape, Solid, random_room, scene_from_solids
from recon.lab.synthetic.textures import Pattern

HEIGHT, WIDTH = 24, 32
INTRINSICS = torch.tensor([[30.0, 0, 15.5], [0, 32.0, 12.25], [0, 0, 1]])
GREY = ("808080",) * 4


def solid(shape: Shape, centre: tuple[float, float, float], half_size: tuple[float, float, float]) -> Solid:
    return Solid(shape, centre, half_size, Pattern.PLASTER, GREY, 0.3)


def one_solid(shape: Shape, centre: tuple[float, float, float], half_size: tuple[float, float, float]) -> Scene:
    return scene_from_solids([solid(shape, centre, half_size)], light=(0.0, 0.0, 50.0))


def camera(eye: tuple[float, float, float], target: tuple[float, float, float]) -> torch.Tensor:
    return inverse_rigid(look_at(torch.tensor(eye).float(), torch.tensor(target).float()))[None, None]


def pixel_directions() -> tuple[torch.Tensor, torch.Tensor]:
    """x / z and y / z of every pixel's centre, (HEIGHT, WIDTH), float64."""
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return (u.double() - 15.5) / 30, (v.double() - 12.25) / 32


def two_rooms(views: int) -> tuple[Scene, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    scene = random_room(generator, 2)
    return scene, inverse_rigid(room_walk(generator, scene.half_size[:, 0], views))


def test_depth_of_a_wall_ahead_is_its_distance() -> None:
    scene = one_solid(Shape.BOX, (0, 0, 0), (4, 3, 5))
    depth = render_depth(scene, camera((0, -1, 0), (0, 3, 0)), INTRINSICS, HEIGHT, WIDTH)
    assert torch.allclose(depth, torch.full_like(depth, 4.0), atol=1e-5)


def test_depth_of_a_box_from_outside_is_that_of_its_front() -> None:
    scene = one_solid(Shape.BOX, (0, 5, 0), (0.5, 1, 0.25))
    depth = render_depth(scene, camera((0, 0, 0), (0, 5, 0)), INTRINSICS, HEIGHT, WIDTH)[0, 0]
    x, y = pixel_directions()
    inside = (x.abs() * 4 < 0.5) & (y.abs() * 4 < 0.25)
    assert torch.allclose(depth[inside], torch.tensor(4.0), atol=1e-5)
    assert (depth[~inside] == 0).all()


def test_depth_of_a_sphere() -> None:
    scene = one_solid(Shape.ELLIPSOID, (0.2, 5, -0.3), (1.5, 1.5, 1.5))
    depth = render_depth(scene, camera((0, 0, 0), (0, 5, 0)), INTRINSICS, HEIGHT, WIDTH)[0, 0]
    x, y = pixel_directions()
    square = x**2 + y**2 + 1
    half = 0.2 * x + 0.3 * y + 5
    root = half**2 - square * (0.2**2 + 0.3**2 + 25 - 1.5**2)
    expected = (half - root.clamp(min=0).sqrt()) / square
    clear = root.abs() > 1e-3  # within rounding of the outline either answer is right
    assert torch.allclose(depth.double()[clear], torch.where(root > 0, expected, 0)[clear], atol=1e-4)


def test_depth_of_a_pole_and_its_cap() -> None:
    scene = one_solid(Shape.CYLINDER, (0, 5, 0), (1, 1, 0.8))
    front = render_depth(scene, camera((0, 0, 0), (0, 5, 0)), INTRINSICS, HEIGHT, WIDTH)[0, 0]
    x, y = pixel_directions()
    root = 25 - (x**2 + 1) * 24
    expected = (5 - root.clamp(min=0).sqrt()) / (x**2 + 1)
    inside = (root > 1e-3) & ((y * expected).abs() < 0.8)
    assert inside.sum() > 50
    assert torch.allclose(front.double()[inside], expected[inside], atol=1e-5)
    above = render_depth(scene, camera((0, 4.99, 6), (0, 5, 0)), INTRINSICS, HEIGHT, WIDTH)[0, 0]
    assert abs(float(above[12, 15]) - 5.2) < 1e-2


def test_depth_of_an_infinite_ground_plane_ends_at_the_horizon() -> None:
    scene = one_solid(Shape.BOX, (0, 0, -1), (math.inf, math.inf, 1))
    depth = render_depth(scene, camera((7, -3, 1.5), (7, 5, 1.5)), INTRINSICS, HEIGHT, WIDTH)[0, 0]
    _, y = pixel_directions()
    expected = torch.where(y > 0, 1.5 / y, 0)
    assert torch.allclose(depth.double(), expected, rtol=1e-5)


def test_sky_has_the_background_colour_and_no_depth() -> None:
    rendering = render(one_solid(Shape.BOX, (0, -9, 0), (1, 1, 1)), camera((0, 0, 0), (0, 5, 0)), INTRINSICS, 4, 5)
    assert torch.allclose(rendering.colour, torch.tensor([0.7, 0.8, 0.9]).expand(1, 1, 4, 5, 3), atol=1e-5)
    assert (rendering.depth == 0).all()


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), step=st.integers(1, 3))
def test_unprojected_depth_agrees_with_another_view(seed: int, step: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scene = random_room(generator, 1)
    world_from_cam = room_walk(generator, scene.half_size[:, 0], 20)
    first, second = world_from_cam[0, 0], inverse_rigid(world_from_cam[0, step])
    depth = render_depth(scene, inverse_rigid(first)[None, None], INTRINSICS, HEIGHT, WIDTH)[0, 0].flatten()
    x, y = (grid.flatten().float() for grid in pixel_directions())
    points_world = torch.stack([x, y, torch.ones_like(x)], 1) * depth[:, None] @ first[:3, :3].T + first[:3, 3]
    points = points_world @ second[:3, :3].T + second[:3, 3]
    points = points[points[:, 2] > 0.2]
    # One single-pixel camera per point: its centre ray passes exactly through the point.
    single = torch.eye(3).repeat(1, len(points), 1, 1)
    single[0, :, :2, 2] = 0.5 - points[:, :2] / points[:, 2:]
    found = render_depth(scene, second.expand(1, len(points), 4, 4), single, 1, 1).flatten()
    assert (found < points[:, 2] + 1e-3).all()
    assert ((found - points[:, 2]).abs() < 1e-3).float().mean() > 0.7


def test_a_batch_equals_its_scenes_one_by_one() -> None:
    scene, cam_from_world = two_rooms(views=2)
    whole = render(scene, cam_from_world, INTRINSICS, HEIGHT, WIDTH)
    assert whole.colour.shape == (2, 2, HEIGHT, WIDTH, 3)
    for index in range(2):
        single = render(scene[index], cam_from_world[index : index + 1], INTRINSICS, HEIGHT, WIDTH)
        assert torch.allclose(single.depth[0], whole.depth[index], atol=1e-5)
        assert (single.colour[0] - whole.colour[index]).abs().mean() < 1e-4
    assert (whole.colour[0] - whole.colour[1]).abs().mean() > 0.05


@pytest.mark.parametrize("rays_per_block", [1, 700, 1 << 20])
def test_row_blocks_equal_the_whole(rays_per_block: int) -> None:
    scene, cam_from_world = two_rooms(views=1)
    whole = render(scene, cam_from_world, INTRINSICS, HEIGHT, WIDTH)
    blocks = render(scene, cam_from_world, INTRINSICS, HEIGHT, WIDTH, rays_per_block=rays_per_block)
    assert torch.allclose(blocks.depth, whole.depth, atol=1e-5)
    # Rounding may move a sample across the edge of a tile, so single pixels may differ, but hardly any.
    assert ((blocks.colour - whole.colour).abs() > 1e-3).float().mean() < 1e-3


def test_intrinsics_may_differ_between_views() -> None:
    scene, cam_from_world = two_rooms(views=2)
    matrices = INTRINSICS.repeat(2, 2, 1, 1)
    matrices[:, 1, 0, 0] *= 2
    depth = render_depth(scene, cam_from_world, matrices, HEIGHT, WIDTH)
    for view in range(2):
        alone = render_depth(scene, cam_from_world[:, view : view + 1], matrices[0, view], HEIGHT, WIDTH)
        assert torch.allclose(depth[:, view], alone[:, 0], atol=1e-5)


def test_the_seed_decides_everything() -> None:
    renderings = []
    for seed in (5, 5, 6):
        scene = random_room(torch.Generator().manual_seed(seed), 1)
        renderings.append(render(scene, camera((0, 0, 1.5), (1, 0, 1.4)), INTRINSICS, HEIGHT, WIDTH).colour)
    assert torch.equal(renderings[0], renderings[1])
    assert (renderings[0] - renderings[2]).abs().mean() > 0.02


def test_objects_between_floor_and_lamp_cast_a_shadow() -> None:
    floor = solid(Shape.BOX, (0, 0, -1), (math.inf, math.inf, 1))
    shelf = solid(Shape.BOX, (0, 0, 2), (0.5, 0.5, 0.01))
    view = camera((0, -3, 1), (0, 0, 0))
    lit, shaded = (
        render_colour(scene_from_solids(solids, light=(0.0, 0.0, 4.0)), view, INTRINSICS, HEIGHT, WIDTH)[0, 0]
        for solids in ([floor], [floor, shelf])
    )
    assert shaded[12, 15].mean() < 0.85 * lit[12, 15].mean()
    assert torch.allclose(shaded[-1], lit[-1])


def test_the_walk_through_a_random_room_meets_no_furniture() -> None:
    generator = torch.Generator().manual_seed(0)
    scene = random_room(generator, 16)
    cam_from_world = inverse_rigid(room_walk(generator, scene.half_size[:, 0], 12))
    depth = render_depth(scene, cam_from_world, INTRINSICS / 4 + torch.diag(torch.tensor([0, 0, 0.75])), 6, 8)
    assert depth.min() > 0.1
    assert depth.max() < 20
