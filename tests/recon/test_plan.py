"""The plan: its counts equal the pipeline's, and settings that do not fit are lowered or refused in a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.core.errors import ResourceError, SourceError
from recon.core.machine import Machine
from recon.core.sizes import scaled
from recon.mapping.chunks import chunks
from recon.plan import Plan, Probe, chunk_count, disk_need, make_plan, memory_need, run_probe
from recon.settings import CloudSettings, RunSettings
from recon.sfm.quality import Quality
from recon.sources import SourceDescription, SourceOptions
from recon.sources.base import working_image

PHOTOS = SourceDescription("folder", 100, ((4000, 3000), (3000, 4000)), 0.0)
VIDEO = SourceDescription("video", 300, ((1920, 1080),), 30.0)
ROOMY = Machine(memory=64 * 10**9, disk=10**12, processors=2)
PROBE = Probe(detect=0.2, match=0.05, sweep=0.1)


def _plan(description: SourceDescription, settings: RunSettings | None = None, machine: Machine = ROOMY) -> Plan:
    return make_plan(description, settings or RunSettings(), Path("out"), machine, PROBE)


def test_a_roomy_machine_changes_nothing() -> None:
    plan = _plan(PHOTOS)
    assert plan.settings == RunSettings(SourceOptions(keyframes="all"))
    assert plan.notices == ()
    assert (plan.frames, plan.original, plan.working, plan.chunks) == (100, (4000, 3000), (1024, 768), 2)
    assert plan.gpu_memory == 0


@given(st.integers(1, 200), st.integers(2, 40), st.data())
def test_the_plan_counts_chunks_like_the_pipeline(frames: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(1, size - 1))
    made = sum(1 for _ in chunks([None] * frames, size, overlap))  # type: ignore[list-item]
    assert chunk_count(frames, RunSettings(chunk=size, overlap=overlap)) == made


@given(st.integers(1, 500), st.integers(1, 500), st.integers(64, 300))
def test_the_working_size_is_that_of_the_source(width: int, height: int, longest: int) -> None:
    image = working_image(np.zeros((height, width, 3), np.uint8), longest)
    assert scaled((width, height), longest) == (image.shape[1], image.shape[0])


def test_the_chunk_is_lowered_before_the_size() -> None:
    need = memory_need(PHOTOS, RunSettings(), 2)
    plan = _plan(PHOTOS, machine=replace(ROOMY, memory=need - 100_000_000))
    assert 20 <= plan.settings.chunk < 60
    assert plan.settings.source.size == 1024
    assert plan.memory <= need - 100_000_000
    assert len(plan.notices) == 1
    assert plan.notices[0].startswith(f"--chunk was reduced from 60 to {plan.settings.chunk}")


def test_the_size_is_lowered_when_a_small_chunk_is_not_enough() -> None:
    settings = RunSettings(source=SourceOptions(size=4000))
    need = memory_need(PHOTOS, RunSettings(chunk=20, overlap=12, source=settings.source), 2)
    plan = _plan(PHOTOS, settings, replace(ROOMY, memory=need - 1_000_000))
    assert plan.settings.chunk == 20
    assert 480 <= plan.settings.source.size < 4000
    assert plan.working[0] == plan.settings.source.size
    assert [notice.split()[0] for notice in plan.notices] == ["--chunk", "--size"]


def test_depth_is_not_filled_if_memory_is_too_short() -> None:
    smallest = RunSettings(chunk=20, source=SourceOptions(size=480))
    free = memory_need(PHOTOS, smallest, 2) - 1
    plan = _plan(PHOTOS, machine=replace(ROOMY, memory=free))
    assert plan.settings.depth == "classical"
    assert plan.memory <= free
    assert plan.notices[0].startswith("--depth was reduced from filled to classical")
    assert plan.settings.chunk >= 20
    assert plan.settings.source.size > 480  # the memory for filling is free for the images


def test_a_chunk_is_never_lowered_to_its_overlap() -> None:
    settings = RunSettings(chunk=60, overlap=40)
    need = memory_need(PHOTOS, settings, 2)
    assert _plan(PHOTOS, settings, replace(ROOMY, memory=need - 1)).settings.chunk >= 41


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"at least \d\.\d GB of memory, 0\.1 GB are free"):
        _plan(PHOTOS, machine=replace(ROOMY, memory=100_000_000))


def test_too_little_disk_is_refused_with_advice() -> None:
    with pytest.raises(ResourceError, match=r"MB of disk, 100 MB are free at out\..*--max-frames"):
        _plan(VIDEO, machine=replace(ROOMY, disk=100_000_000))


def test_images_twice_as_wide_as_high_may_be_panoramas() -> None:
    wide = replace(PHOTOS, sizes=((2000, 1000),))
    (notice,) = _plan(wide).notices
    assert notice.endswith("If they are 360-degree panoramas, add --equirectangular.")
    assert not _plan(replace(wide, sizes=((2000, 1000), (1600, 1000)))).notices
    assert not _plan(replace(wide, views=6)).notices


def test_unreadable_images_are_refused() -> None:
    with pytest.raises(SourceError, match="None of the 3 images can be opened"):
        _plan(SourceDescription("folder", 3, (), 0.0))


def test_a_video_without_a_frame_count_can_be_planned() -> None:
    plan = _plan(replace(VIDEO, frames=0))
    assert (plan.frames, plan.chunks) == (0, 0)
    assert plan.memory == memory_need(replace(VIDEO, frames=60), RunSettings(SourceOptions(keyframes="select")), 2)


def test_only_videos_need_disk_for_their_originals() -> None:
    as_photos = replace(VIDEO, kind="folder")
    assert disk_need(VIDEO) - disk_need(as_photos) == pytest.approx(300 * 1920 * 1080 * 0.5)


def test_time_and_disk_grow_with_the_frames_and_memory_does_not() -> None:
    short, long = _plan(replace(VIDEO, frames=250)), _plan(replace(VIDEO, frames=1000))
    assert 3 < long.seconds / short.seconds < 4
    assert long.disk == pytest.approx(4 * short.disk)
    assert long.memory == short.memory


def test_the_joint_adjustment_is_a_part_of_the_time() -> None:
    plan = _plan(PHOTOS)
    assert 0.1 < plan.joint_seconds / plan.seconds < 0.6


def test_a_long_joint_adjustment_takes_no_longer() -> None:
    joint = [_plan(replace(VIDEO, frames=frames)).joint_seconds for frames in (30, 60, 300, 3000)]
    assert joint[0] < joint[1] < joint[2] == joint[3]


def test_a_slower_machine_needs_longer() -> None:
    slow = make_plan(PHOTOS, RunSettings(), Path("out"), ROOMY, Probe(*(3 * t for t in vars(PROBE).values())))
    assert slow.seconds > 2 * _plan(PHOTOS).seconds


def test_the_probe_times_every_step() -> None:
    probe = run_probe((320, 240))
    assert 0 < probe.detect < 10
    assert 0 < probe.match < 10
    assert 0 < probe.sweep < 10


def test_without_the_joint_adjustment_a_run_takes_less_time_and_memory() -> None:
    adjusted, grown = (_plan(PHOTOS, RunSettings(refine=kind)) for kind in ("auto", "none"))
    assert grown.joint_seconds == 0
    assert adjusted.seconds - grown.seconds == pytest.approx(adjusted.joint_seconds)
    assert adjusted.memory - grown.memory == 100 * 2_500_000


def test_a_long_source_is_mapped_by_keyframes_and_undecided_frames_take_memory() -> None:
    chosen, all_frames = (_plan(VIDEO, RunSettings(SourceOptions(keyframes=kind))) for kind in ("auto", "all"))
    assert (chosen.settings.source.keyframes, all_frames.settings.source.keyframes) == ("select", "all")
    assert chosen.memory - all_frames.memory == 13 * (1920 * 1080 * 3 + 1024 * 576 * 4)


def test_the_plan_of_a_run_with_keyframes_is_that_of_as_many_frames_and_the_poses_of_the_others() -> None:
    plans = [
        make_plan(replace(VIDEO, frames=count), RunSettings(), Path("out"), ROOMY, PROBE, keyframe_share=share)
        for count, share in ((300, 0.4), (120, 1.0))
    ]
    assert [(plan.frames, plan.mapped) for plan in plans] == [(300, 120), (120, 120)]
    assert len({(plan.chunks, plan.disk, plan.joint_seconds) for plan in plans}) == 1
    assert plans[0].seconds - plans[1].seconds == pytest.approx(180 * 3 * PROBE.match)


def test_finished_frames_take_no_time() -> None:
    whole = _plan(VIDEO)
    plans = [make_plan(VIDEO, RunSettings(), Path("out"), ROOMY, PROBE, finished=count) for count in (0, 150, 300)]
    assert plans[0] == whole
    assert plans[0].seconds > plans[1].seconds > plans[2].seconds
    assert plans[2].seconds == pytest.approx(7.0 + whole.joint_seconds)
    assert [plan.finished for plan in plans] == [0, 150, 300]
    assert len({(plan.memory, plan.disk) for plan in plans}) == 1


def test_the_quality_is_probed_and_takes_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[Quality] = []
    monkeypatch.setattr("recon.plan.run_probe", lambda _, quality: probed.append(quality) or PROBE)
    fast, normal, best = (
        make_plan(PHOTOS, RunSettings(quality=quality), Path("out"), ROOMY) for quality in ("fast", "normal", "best")
    )
    assert [quality.features for quality in probed] == [1500, 2048, 4096]
    assert best.disk - normal.disk > 100 * 2048 * 128
    assert normal.disk - fast.disk > 100 * 548 * 128


def test_a_small_cloud_and_no_recording_take_less_disk() -> None:
    whole = disk_need(VIDEO)
    assert whole - disk_need(VIDEO, CloudSettings(max_points=1000)) == 300 * 300_000 - 1000 * 31
    assert whole - disk_need(VIDEO, recorded=False) == 300 * 100_000


def test_filling_gaps_of_depth_takes_time_and_memory() -> None:
    filled, classical = (_plan(PHOTOS, RunSettings(depth=kind)) for kind in ("filled", "classical"))
    assert 1.05 < filled.seconds / classical.seconds < 1.5
    assert filled.memory - classical.memory == 300_000_000
