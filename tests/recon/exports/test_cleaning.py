from dataclasses import replace

import numpy as np
import pytest

from recon.exports.cleaning import at_depth_edge, cleaned, own_depth, sky_of, surfaces, survey
from recon.exports.normals import depth_normals
from recon.exports.ply import read_points, write_ply
from recon.settings import CloudSettings
from recon.store.map import rewrite_depth
from tests.support import DEPTH_INTRINSICS, DEPTH_SIZE, PLANE_DEPTH, make_map


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Six frames of a plane, each in its own unit."""
    return list(make_map(tmp_path_factory.mktemp("map")).geometry())


def altered(frames, number, depth=None, confidence=None):
    """The frames, with the depth or confidence of one of them replaced."""
    frame, geometry = frames[number]
    depth = geometry.depth if depth is None else depth.astype(np.float32)
    confidence = geometry.confidence if confidence is None else confidence.astype(np.float32)
    return [*frames[:number], (frame, replace(geometry, depth=depth, confidence=confidence)), *frames[number + 1 :]]


def test_exact_depth_is_unchanged(frames):
    for (frame, before), (same, after) in zip(frames, cleaned(frames, 0.0), strict=True):
        assert same is frame
        np.testing.assert_allclose(after.depth, before.depth, rtol=2e-3)


def test_doubtful_depth_is_left_out(frames):
    confidence = frames[2][1].confidence.copy()
    confidence[30:40, 20:40] = 0.3
    *_, (_, third), _, _, _ = cleaned(altered(frames, 2, confidence=confidence), 0.5)
    assert not third.depth[30:40, 20:40].any()
    assert third.depth[41, 20:40].all()


@pytest.mark.parametrize(("share", "left_out"), [(0.04, True), (0.2, False)])
def test_at_most_a_twentieth_of_all_depth_is_doubtful(frames, share, left_out):
    frame, geometry = frames[0]
    confidence = np.full(geometry.depth.shape, 0.8, np.float32)
    confidence.flat[: round(share * confidence.size)] = 0.2
    whole = replace(geometry, depth=np.ones_like(geometry.depth), confidence=confidence)
    assert (survey([(frame, whole)]).doubtful > 0.5) == left_out


def test_propagated_depth_stays_in_the_map_but_out_of_the_surfaces(tmp_path):
    reconstruction = make_map(tmp_path)
    path = reconstruction.submap_files[0]
    geometry = next(geometry for _, geometry in reconstruction.geometry() if geometry.index == 2)
    rewrite_depth(path, [replace(geometry, depth=1.5 * geometry.depth, propagated=True)])
    assert [geometry.index for _, geometry in reconstruction.geometry()] == [0, 2, 4, 6, 8, 10]
    for settings in (CloudSettings(), CloudSettings(clean=False)):
        known = survey(own_depth(reconstruction))
        assert [geometry.index for _, geometry in surfaces(reconstruction, known, settings)] == [0, 4, 6, 8, 10]
    write_ply(reconstruction, tmp_path / "cloud.ply")
    np.testing.assert_allclose(read_points(tmp_path / "cloud.ply").positions[:, 2], PLANE_DEPTH, rtol=5e-3)


def test_survey_without_depth():
    assert (survey([]).footprint, survey([]).doubtful) == (1.0, 0.0)


def test_floating_depth_that_others_see_through_is_removed(frames):
    """A patch half-way between camera and plane stands in front of what all other views see."""
    depth = frames[2][1].depth.copy()
    depth[25:35, 30:50] /= 2
    after = [geometry for _, geometry in cleaned(altered(frames, 2, depth=depth), 0.0)]
    assert not after[2].depth[25:35, 30:50].any()
    assert np.count_nonzero(after[2].depth) > 0.9 * (frames[2][1].depth.size - 200)
    assert np.count_nonzero(after[3].depth) == np.count_nonzero(frames[3][1].depth)


def test_errors_of_single_views_average_out(frames):
    generator = np.random.default_rng(0)
    noisy = frames
    for number, (_, geometry) in enumerate(frames):
        noise = 1 + 0.002 * generator.standard_normal(geometry.depth.shape)
        noisy = altered(noisy, number, depth=geometry.depth * noise)
    errors = []
    for (_, truth), (_, before), (_, after) in zip(frames, noisy, cleaned(noisy, 0.0), strict=True):
        kept = (after.depth > 0) & (truth.depth > 0)
        errors.append([np.std(found.depth[kept] / truth.depth[kept]) for found in (before, after)])
    before, after = np.mean(errors, axis=0)
    assert after < 0.7 * before


def test_depth_that_no_other_view_sees_is_kept(frames):
    ((_, alone),) = cleaned(frames[:1], 0.0)
    np.testing.assert_array_equal(alone.depth, frames[0][1].depth)


def test_both_sides_of_a_step_are_edges_but_a_slope_is_not():
    step = np.ones((6, 8), np.float32)
    step[:, 4:] = 2
    assert np.flatnonzero(at_depth_edge(step)[3]).tolist() == [3, 4]
    slope = np.tile(np.linspace(1, 1.1, 8, dtype=np.float32), (6, 1))
    assert not at_depth_edge(slope).any()
    holes = np.where(np.arange(8) % 2, np.float32(0), slope)
    assert not at_depth_edge(holes).any()


def picture(top, bottom):
    """An image (60, 80, 3) of two colours, the lower one with texture."""
    colour = np.empty((60, 80, 3), np.uint8)
    colour[:30] = top
    texture = np.random.default_rng(0).integers(-40, 40, (30, 80, 1))
    colour[30:] = np.clip(np.array(bottom) + texture, 0, 255)
    return colour


def test_sky_is_pale_smooth_and_above():
    blue, grey = (150, 190, 235), (120, 120, 120)
    sky = sky_of(picture(blue, grey))
    assert sky[:29].all()
    assert not sky[32:].any()
    assert not sky_of(picture((235, 190, 150), grey)).any()  # a wall in warm light
    assert not sky_of(picture((30, 40, 60), grey)).any()  # night
    assert not sky_of(picture(blue, grey)[::-1]).any()  # water below


def test_sky_is_left_out_on_request_only(frames):
    frame, geometry = frames[0]
    blue = replace(geometry, colour=np.full_like(geometry.colour, (150, 190, 235)))
    ((_, kept),) = cleaned([(frame, blue)], 0.0)
    assert kept.depth.any()
    ((_, left),) = cleaned([(frame, blue)], 0.0, sky=False)
    assert not left.depth.any()


@pytest.mark.parametrize("normal", [(0.0, 0.0, -1.0), (0.6, 0.0, -0.8), (-0.3, 0.5, -0.8)])
def test_normals_of_planes_are_exact(normal):
    normal = np.array(normal) / np.linalg.norm(normal)
    rows, columns = np.mgrid[: DEPTH_SIZE[0], : DEPTH_SIZE[1]] + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(DEPTH_INTRINSICS).T
    depth = (-PLANE_DEPTH / (rays @ normal)).astype(np.float32)
    depth[::7, ::5] = 0
    found = depth_normals(depth, DEPTH_INTRINSICS)
    assert np.degrees(np.arccos(np.clip(found @ normal, -1, 1))).max() < 0.5


def test_the_normal_of_an_isolated_pixel_faces_the_camera():
    depth = np.zeros(DEPTH_SIZE, np.float32)
    depth[10, 20] = 3
    ray = np.linalg.inv(DEPTH_INTRINSICS) @ [20.5, 10.5, 1]
    np.testing.assert_allclose(depth_normals(depth, DEPTH_INTRINSICS)[10, 20], -ray / np.linalg.norm(ray))
