"""360-degree panoramas: their faces are what pinhole cameras would see, and come together."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from recon.core.errors import SettingsError, SourceError
from recon.core.typed_json import typed
from recon.core.types import Camera, Frame, PassedFrame, SkippedFrame
from recon.settings import NetworkSettings, RunSettings
from recon.sources import SourceDescription, SourceOptions, open_live_source, open_source
from recon.sources.panoramas import FACES, PanoramaSource, cut_face, lens_of_faces, rotation_of
from recon.sources.spherical import is_tagged
from recon.store.journal import FrameRecord, record
from tests.panoramas import XMP, panorama, room_walls, seen, walk, write_film, write_panoramas

HEIGHT = 128
SHIFTS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # by a pixel


def frames_of(path: Path, **options: object) -> list[Frame]:
    return [item for item in open_source(str(path), SourceOptions(**options)) if isinstance(item, Frame)]


def blank(path: Path, size: tuple[int, int] = (64, 32), xmp: bytes = b"") -> Path:
    path.parent.mkdir(exist_ok=True)
    PillowImage.new("RGB", size, (90, 120, 150)).save(path, **({"xmp": xmp} if xmp else {}))
    return path


def test_faces_are_what_pinhole_cameras_see() -> None:
    walls, (rotation, centre) = room_walls(), walk(3)[1]
    whole, lens = panorama(walls, (rotation, centre), 512), lens_of_faces(1024)
    rows, columns = np.mgrid[: lens.height, : lens.width] + 0.5
    rays_cam = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(lens.matrix()).T
    for number in range(FACES):
        expected = seen(walls, centre, rays_cam @ (rotation @ rotation_of(number).T).T).astype(float)
        face = cut_face(whole, lens, number).astype(float)
        misses = {shift: np.abs(np.roll(face, shift, axis=(0, 1)) - expected).mean() for shift in ((0, 0), *SHIFTS)}
        assert misses[0, 0] < 0.5 * min(misses[shift] for shift in SHIFTS)


def test_faces_come_together_with_their_lens_and_rotation(tmp_path: Path) -> None:
    source = open_source(str(write_panoramas(tmp_path / "walk", walk(2), HEIGHT)), images_folder=tmp_path / "images")
    frames = [item for item in source if isinstance(item, Frame)]
    assert [frame.name for frame in frames[:7]] == [*(f"pano_0_{face}.jpg" for face in range(6)), "pano_1_0.jpg"]
    assert [frame.index for frame in frames] == list(range(12)) == [frame.timestamp for frame in frames]
    assert [frame.shot for frame in frames] == [0] * 6 + [6] * 6
    lens = source.description.lens
    assert lens is not None
    assert lens.width == lens.height == round(2 * HEIGHT / np.pi)
    assert np.degrees(2 * np.arctan(lens.width / 2 / lens.params[0])) == pytest.approx(90)
    assert {frame.mount.camera for frame in frames if frame.mount} == {lens}
    assert (source.description.frames, source.description.sizes, source.description.views) == (12, ((81, 81),), FACES)
    np.testing.assert_allclose(np.reshape(frames[6].mount.rotation, (3, 3)), np.eye(3))
    assert source.file_of(7) == tmp_path / "walk" / "pano_1.jpg"
    for frame in frames:
        with PillowImage.open(tmp_path / "images" / frame.name) as kept:
            assert np.abs(np.asarray(kept).astype(float) - frame.image).mean() < 8


def test_a_tagged_video_has_faces_at_the_times_of_its_frames(tmp_path: Path) -> None:
    images = [panorama(room_walls(), pose, HEIGHT) for pose in walk(3)]
    film = write_film(tmp_path / "walk.mp4", images)
    frames = frames_of(film)
    assert [frame.timestamp for frame in frames] == pytest.approx([0.0] * 6 + [0.1] * 6 + [0.2] * 6)
    assert frames[7].name == "000001_1.jpg"
    assert not isinstance(open_source(str(write_film(tmp_path / "plain.mp4", images, tagged=False))), PanoramaSource)


def test_live_panoramas_are_refused(tmp_path: Path) -> None:
    film = write_film(tmp_path / "walk.mp4", [panorama(room_walls(), pose, HEIGHT) for pose in walk(2)])
    with pytest.raises(SourceError, match="shows 360-degree panoramas, which recon live cannot map"):
        open_live_source(str(film), SourceOptions(), realtime=True)
    folder = write_panoramas(tmp_path / "walk", walk(1), HEIGHT)
    with pytest.raises(SourceError, match=r"pano_0\.jpg shows 360-degree panoramas"):
        list(open_live_source(str(folder), SourceOptions(max_frames=2), watch=True))


def test_an_untagged_panorama_needs_the_option(tmp_path: Path) -> None:
    folder = write_panoramas(tmp_path / "walk", walk(1), HEIGHT, tagged=False)
    assert [frame.mount for frame in frames_of(folder)] == [None]
    assert len(frames_of(folder, equirectangular=True)) == FACES


def test_photo_sphere_metadata_is_recognised_in_either_form() -> None:
    assert is_tagged(XMP)
    assert is_tagged(b"<GPano:ProjectionType>equirectangular</GPano:ProjectionType>")
    assert not is_tagged(b"<GPano:ProjectionType>cylindrical</GPano:ProjectionType>")


def test_a_panorama_of_part_of_the_sphere_is_refused(tmp_path: Path) -> None:
    path = blank(tmp_path / "a" / "part.jpg", (64, 20), XMP)
    with pytest.raises(SourceError, match=r"is 64x20 pixels, but a 360-degree panorama .* is twice as wide as high"):
        frames_of(path.parent)


def test_panoramas_among_other_images_are_refused(tmp_path: Path) -> None:
    blank(tmp_path / "a" / "one.jpg", xmp=XMP)
    blank(tmp_path / "a" / "two.jpg")
    with pytest.raises(SourceError, match=r"mixes 360-degree panoramas, the first one.jpg, with other images.*two.jpg"):
        open_source(str(tmp_path / "a"))
    assert len(frames_of(tmp_path / "a", equirectangular=True)) == 2 * FACES


def test_a_partial_panorama_among_photos_is_a_photo(tmp_path: Path) -> None:
    blank(tmp_path / "a" / "one.jpg", (64, 20), XMP)
    blank(tmp_path / "a" / "two.jpg", (64, 48))
    assert [frame.mount for frame in frames_of(tmp_path / "a")] == [None, None]


def test_a_mask_of_the_panorama_covers_what_its_faces_see_there(tmp_path: Path) -> None:
    folder = write_panoramas(tmp_path / "walk", walk(1), HEIGHT)
    usable = np.full((HEIGHT, 2 * HEIGHT), 255, np.uint8)
    usable[:, :HEIGHT] = 0  # what lies to the left of the middle
    (tmp_path / "masks").mkdir()
    PillowImage.fromarray(usable).save(tmp_path / "masks" / "pano_0.png")
    shares = [frame.mask.mean() for frame in frames_of(folder, masks=tmp_path / "masks")]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0, 0.0], abs=0.02)


def test_keyframes_are_chosen_by_panorama(tmp_path: Path) -> None:
    images = [panorama(room_walls(), pose, HEIGHT) for pose in walk(4)]
    film = write_film(tmp_path / "a.mp4", [images[step // 5] for step in range(20)])
    items = list(open_source(str(film), SourceOptions(keyframes="select")))
    mapped, passed = ([i.index for i in items if isinstance(i, kind)] for kind in (Frame, PassedFrame))
    assert {index // FACES for index in mapped}.isdisjoint(index // FACES for index in passed)
    assert len(mapped) % FACES == len(passed) % FACES == 0
    assert FACES * 4 <= len(mapped) < FACES * 10
    assert sorted(mapped + passed) == list(range(20 * FACES))
    again = open_source(str(film), SourceOptions(keyframes="select"))
    again.keyframes = type(again.keyframes)(True, frozenset(mapped))
    assert [i.index for i in again if isinstance(i, Frame)] == mapped


def test_an_unreadable_panorama_is_skipped(tmp_path: Path) -> None:
    folder = write_panoramas(tmp_path / "walk", walk(2), HEIGHT)
    whole = (folder / "pano_0.jpg").read_bytes()
    (folder / "pano_0.jpg").write_bytes(whole[: len(whole) // 2])
    items = list(open_source(str(folder)))
    assert [item.name for item in items if isinstance(item, SkippedFrame)] == ["pano_0.jpg"]
    assert [item.index for item in items if isinstance(item, Frame)] == list(range(FACES, 2 * FACES))


def test_settings_know_the_lens_and_keep_panoramas_whole() -> None:
    lens = lens_of_faces(1024)
    source = SourceDescription("folder", 12, ((326, 326),), 0.0, lens, FACES, "panorama")
    settings = RunSettings(chunk=50, overlap=10).of_rig(source)
    assert (settings.chunk, settings.overlap, settings.intrinsics) == (54, 12, lens)
    other = Camera("PINHOLE", 100, 100, (80.0, 80.0, 50.0, 50.0))
    for wrong in (
        RunSettings(network=NetworkSettings("VGGT-1B")),
        RunSettings(intrinsics=other),
        RunSettings(SourceOptions(cameras="per-image")),
    ):
        with pytest.raises(SettingsError, match="the lens of their faces is known"):
            wrong.of_rig(source)


def test_the_journal_keeps_the_rig_of_a_frame(tmp_path: Path) -> None:
    frame = frames_of(write_panoramas(tmp_path / "walk", walk(1), HEIGHT))[4]
    kept = json.loads(json.dumps(asdict(record(frame))))
    assert typed(kept, FrameRecord, tmp_path, "").mount == frame.mount
