"""True correspondence of cells, compared with walls of known motion and with rendered colours."""

import torch
from torch.nn import functional

from recon.lab.training.truth import Seen, correspondence, round_trip
from tests.recon.depth.scenes import HEIGHT, WIDTH, room_views


def wall(depth: float, shift: float) -> Seen:
    cam_from_world = torch.eye(4)[None]
    cam_from_world[0, 0, 3] = shift
    intrinsics = torch.tensor([[[32.0, 0, 16], [0, 32, 12], [0, 0, 1]]])
    return Seen(torch.full((1, 1, 24, 32), depth), intrinsics, cam_from_world)


def test_cells_of_a_wall_move_by_the_disparity() -> None:
    truth = correspondence(wall(2.0, 0.0), wall(2.0, 0.5))  # 32 px * 0.5 / 2 = 8 px to the right
    assert truth.columns == 4
    centres = torch.tensor([[8 * column + 4.0, 8 * row + 4.0] for row in range(3) for column in range(4)])
    torch.testing.assert_close(truth.pixels[0], centres + torch.tensor([8.0, 0.0]))
    assert truth.known.all()
    assert truth.covisible[0].tolist() == [True, True, True, False] * 3


def test_cells_that_are_hidden_or_without_depth_are_not_covisible() -> None:
    assert not correspondence(wall(2.0, 0.0), wall(1.0, 0.5)).covisible.any()
    assert not correspondence(wall(0.0, 0.0), wall(2.0, 0.5)).known.any()
    assert not correspondence(wall(2.0, 0.0), wall(0.0, 0.5)).covisible.any()


def test_corresponding_pixels_of_rendered_views_have_the_same_colour() -> None:
    views = room_views(2)
    seen = Seen(views.depth[:, None], views.intrinsics.expand(2, 3, 3), views.cam_from_world)
    first, second = seen[torch.tensor([0])], seen[torch.tensor([1])]
    truth = correspondence(first, second)
    assert truth.covisible.float().mean() > 0.6
    colour = views.colour.permute(0, 3, 1, 2)
    own = colour[0, :, 4::8, 4::8].flatten(1)
    errors = []
    for pixels in (truth.pixels + 0.5, correspondence(first, first).pixels + 0.5):
        grid = (2 * pixels / torch.tensor([WIDTH, HEIGHT]) - 1)[:, None]
        found = functional.grid_sample(colour[1:], grid, align_corners=False)[0, :, 0]
        errors.append((found - own).abs().mean(0)[truth.covisible[0]].median())
    assert errors[0] < 0.5 * errors[1]


def test_projection_there_and_back_ends_at_the_start() -> None:
    assert round_trip(wall(2.0, 0.0), wall(2.0, 0.5)).max() < 1e-4
    views = room_views(2)
    seen = Seen(views.depth[:, None], views.intrinsics.expand(2, 3, 3), views.cam_from_world)
    errors = round_trip(seen[torch.tensor([0])], seen[torch.tensor([1])])
    assert len(errors) > 10
    assert errors.median() < 0.3
    deeper = Seen(torch.cat([seen.depth[:1], 1.04 * seen.depth[1:]]), seen.intrinsics, seen.cam_from_world)
    assert round_trip(deeper[torch.tensor([0])], deeper[torch.tensor([1])]).median() > 4 * errors.median()
