import numpy as np
import pytest
from evo.core import sync
from evo.core.metrics import APE, RPE, PoseRelation, StatisticsType
from evo.tools.file_interface import read_tum_trajectory_file
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from recon.core.errors import OutputError, SourceError
from recon.evaluate.poses import evaluate, matching_rows, plot

STEPS = 40


def walk():
    """A path (steps, 3) that bends in all axes, and its rotations."""
    t = np.linspace(0, 4, STEPS)
    centres = np.stack([3 * np.cos(t), t, np.sin(2 * t)], axis=1)
    return centres, Rotation.from_euler("zyx", np.stack([t, 0.2 * t, 0.1 * np.sin(t)], axis=1))


def write(path, centres, rotations, timestamps=None):
    times = np.arange(len(centres)) if timestamps is None else timestamps
    np.savetxt(path, np.column_stack([times, centres, rotations.as_quat()]))
    return path


def moved(centres, rotations, scale, rotation, translation):
    return scale * rotation.apply(centres) + translation, rotation * rotations


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 100), st.floats(-3, 3), st.floats(-50, 50))
def test_sim3_alignment_undoes_any_similarity(tmp_path_factory, scale, angle, shift):
    folder = tmp_path_factory.mktemp("evaluation")
    reference = write(folder / "reference.txt", *walk())
    place = moved(*walk(), 1 / scale, Rotation.from_rotvec([angle, 0.3, -angle]), [shift, -shift, 1])
    evaluation = evaluate(write(folder / "estimated.txt", *place), reference)
    assert evaluation.matched == evaluation.reference_rows == STEPS
    assert evaluation.reference_from_estimated.scale == pytest.approx(scale, rel=1e-6)
    np.testing.assert_allclose(evaluation.reference_from_estimated.apply(place[0]), walk()[0], atol=1e-6)
    assert evaluation.ate_max < 1e-6
    assert evaluation.rpe_translation_rmse < 1e-6
    assert evaluation.rpe_rotation_rmse_deg < 1e-4


def test_known_displacements_give_the_expected_figures(tmp_path):
    """Displaces centres by plus and minus d along an axis, symmetrically, so that the alignment cannot absorb it."""
    centres, rotations = walk()
    error = 1e-4 * np.random.default_rng(0).choice([-1.0, 1.0], size=centres.shape)
    reference = write(tmp_path / "reference.txt", centres, rotations)
    evaluation = evaluate(write(tmp_path / "estimated.txt", centres + error, rotations), reference, align="se3")
    assert evaluation.reference_from_estimated.scale == 1
    assert evaluation.ate_rmse == pytest.approx(np.sqrt(3) * 1e-4, rel=0.05)
    assert evaluation.ate_median <= evaluation.ate_max == evaluation.errors.max()
    assert evaluation.extent == pytest.approx(np.linalg.norm(np.ptp(centres, axis=0)))
    assert evaluation.path_length == pytest.approx(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
    np.testing.assert_allclose(np.linalg.norm(evaluation.estimated - evaluation.reference, axis=1), evaluation.errors)


@pytest.mark.parametrize(("scale", "message"), [(1e200, "a coordinate of 1e"), (1e-200, "cannot be aligned")])
def test_coordinates_beyond_all_measure_are_refused(tmp_path, scale, message):
    centres, rotations = walk()
    reference = write(tmp_path / "reference.txt", scale * centres, rotations)
    with pytest.raises(SourceError, match=message):
        evaluate(write(tmp_path / "estimated.txt", centres, rotations), reference)


@pytest.mark.parametrize("align", ["sim3", "se3"])
def test_the_errors_are_those_that_evo_computes(tmp_path, align):
    random = np.random.default_rng(5)
    centres, rotations = walk()
    times = np.arange(STEPS) + random.uniform(-0.008, 0.008, STEPS)
    noisy = Rotation.from_rotvec(random.normal(0, 0.02, (STEPS, 3))) * rotations
    paths = (
        write(tmp_path / "estimated.txt", 0.5 * centres + random.normal(0, 0.05, (STEPS, 3)), noisy, times),
        write(tmp_path / "reference.txt", centres[::2], rotations[::2], np.arange(STEPS)[::2]),
    )
    found = evaluate(*paths, align=align)
    estimated, reference = sync.associate_trajectories(*map(read_tum_trajectory_file, map(str, paths)))
    rotation, translation, scale = estimated.align(reference, correct_scale=align == "sim3")
    alignment = found.reference_from_estimated
    assert found.matched == estimated.num_poses == STEPS // 2
    assert alignment.scale == pytest.approx(scale)
    np.testing.assert_allclose(alignment.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(alignment.translation, translation, atol=1e-12)
    expected = {}
    for name, metric in (
        ("ate_rmse", APE(PoseRelation.translation_part)),
        ("rpe_translation_rmse", RPE(PoseRelation.translation_part)),
        ("rpe_rotation_rmse_deg", RPE(PoseRelation.rotation_angle_deg)),
    ):
        metric.process_data((reference, estimated))
        expected[name] = metric.get_statistic(StatisticsType.rmse)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)


def test_centres_on_a_line_cannot_be_aligned(tmp_path):
    _, rotations = walk()
    line = np.linspace(0, 1, STEPS)[:, None] * [1.0, 2.0, 3.0] + 100
    with pytest.raises(SourceError, match="cannot be aligned"):
        evaluate(write(tmp_path / "estimated.txt", line, rotations), write(tmp_path / "reference.txt", *walk()))


@given(st.lists(st.integers(0, 60), max_size=30), st.lists(st.integers(0, 60), min_size=1, max_size=30))
def test_each_row_matches_the_nearest_in_time(first, second):
    first, second = sorted((np.array(first) / 20, np.array(second) / 20), key=len)
    rows, others = matching_rows(first, second, 0.06)
    if len(first) < len(second):
        assert [rows.tolist() for rows in matching_rows(second, first, 0.06)] == [others.tolist(), rows.tolist()]
    gaps = np.abs(first[:, None] - second)
    assert rows.tolist() == [row for row, gap in enumerate(gaps) if gap.min() <= 0.06]
    np.testing.assert_array_equal(np.abs(first[rows] - second[others]), gaps[rows].min(axis=1))


def test_a_turned_camera_shows_in_the_rotation_error_only(tmp_path):
    centres, rotations = walk()
    wobble = Rotation.from_rotvec(np.outer(np.arange(STEPS) % 2, [0.5, 0, 0]), degrees=True)
    reference = write(tmp_path / "reference.txt", centres, rotations)
    evaluation = evaluate(write(tmp_path / "estimated.txt", centres, rotations * wobble), reference)
    assert evaluation.ate_rmse < 1e-9
    assert evaluation.rpe_rotation_rmse_deg == pytest.approx(0.5, rel=0.01)


def test_se3_keeps_the_wrong_scale(tmp_path):
    centres, rotations = walk()
    reference = write(tmp_path / "reference.txt", centres, rotations)
    estimated = write(tmp_path / "estimated.txt", 1.1 * centres, rotations)
    assert evaluate(estimated, reference).ate_rmse < 1e-9
    assert evaluate(estimated, reference, align="se3").ate_rmse > 0.1


def test_rows_are_matched_by_time(tmp_path):
    centres, rotations = walk()
    reference = write(tmp_path / "reference.txt", centres, rotations, 10 + 0.1 * np.arange(STEPS))
    every_third = slice(0, STEPS, 3)
    times = 10.004 + 0.1 * np.arange(STEPS)[every_third]
    estimated = write(tmp_path / "estimated.txt", centres[every_third], rotations[every_third], times)
    evaluation = evaluate(estimated, reference)
    assert (evaluation.matched, evaluation.reference_rows) == (14, STEPS)
    assert evaluation.ate_max < 1e-9
    assert evaluation.path_length > 6
    with pytest.raises(SourceError, match=r"0 rows of .*estimated.txt .* within 0.001 s"):
        evaluate(estimated, reference, max_time_difference=0.001)


def test_too_few_matches_name_both_time_ranges(tmp_path):
    centres, rotations = walk()
    reference = write(tmp_path / "reference.txt", centres, rotations, 100 + np.arange(STEPS))
    estimated = write(tmp_path / "estimated.txt", centres, rotations, 62 + np.arange(STEPS))
    with pytest.raises(SourceError, match=r"2 rows of .* \(time 62 to 101\) match .* \(time 100 to 139\).*at least 3"):
        evaluate(estimated, reference)


def test_centres_in_one_point_cannot_be_aligned(tmp_path):
    centres, rotations = walk()
    reference = write(tmp_path / "reference.txt", centres, rotations)
    with pytest.raises(SourceError, match="cannot be aligned"):
        evaluate(write(tmp_path / "estimated.txt", 0 * centres, rotations), reference)


def test_a_broken_reference_is_named(tmp_path):
    reference = tmp_path / "reference.txt"
    reference.write_text("0 0 0\n")
    with pytest.raises(SourceError, match=r"reference\.txt, line 1"):
        evaluate(write(tmp_path / "estimated.txt", *walk()), reference)


def test_plot_is_a_picture_with_lines(tmp_path):
    reference = write(tmp_path / "reference.txt", *walk())
    evaluation = evaluate(reference, reference)
    plot(evaluation, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert image.size == (1440, 600)
        assert len(image.convert("RGB").getcolors(10**6)) > 50
    with pytest.raises(OutputError, match="nowhere"):
        plot(evaluation, tmp_path / "nowhere" / "plot.png")
