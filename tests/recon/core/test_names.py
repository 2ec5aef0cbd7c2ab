"""Names of images that every program can read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon.core.names import LONGEST, image_stem, printable
from recon.core.types import Frame
from recon.sources import open_source
from tests.cli.conftest import make_images

ODD = {
    b"f\xfcr.jpg": "f%FCr",
    "für.jpg".encode(): "für",
    b"a b [1] (2).jpg": "a_b_[1]_(2)",
    b"tab\tnew\nline.jpg": "tab_new_line",
    "quote'\"`$;😀.jpg".encode(): "quote'\"`$;😀",
    b"-dash.jpg": "-dash",
    b"back\\slash.jpg": "back%5Cslash",
    b"x" * 251 + b".jpg": "x" * 200,
}


@pytest.mark.parametrize(("name", "stem"), ODD.items(), ids=repr)
def test_printable_names_are_kept(name: bytes, stem: str) -> None:
    assert image_stem(Path(name.decode(errors="surrogateescape")).stem) == stem


@given(st.text(st.characters(exclude_characters="/\0"), max_size=300))
def test_a_name_is_printable_without_spaces_and_short(text: str) -> None:
    stem = image_stem(text)
    assert stem.isprintable()
    assert not any(character.isspace() for character in stem)
    assert len(stem.encode()) <= LONGEST
    assert image_stem(stem) == stem
    assert printable(printable(text)) == printable(text)


def test_frames_of_a_folder_with_unusual_names(tmp_path: Path) -> None:
    (original,) = make_images(tmp_path / "one", 1).iterdir()
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ODD:
        Path(folder, name.decode(errors="surrogateescape").replace(".jpg", ".png")).write_bytes(original.read_bytes())
    items = list(open_source(str(folder), images_folder=tmp_path / "kept"))
    names = [item.name for item in items if isinstance(item, Frame)]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert len(names) == len(ODD)
    assert names == sorted(names)
    assert json.loads(json.dumps(names, ensure_ascii=False).encode()) == names
    assert _through_colmap_text(names, tmp_path / "text") == names


def _through_colmap_text(names: list[str], folder: Path) -> list[str]:
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="PINHOLE", width=10, height=10, params=[1, 1, 5, 5], camera_id=1)
    model.add_camera_with_trivial_rig(camera)
    for number, name in enumerate(names, start=1):
        image = pycolmap.Image(name=name, keypoints=np.zeros((1, 2)), camera_id=1, image_id=number)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
    folder.mkdir()
    model.write_text(folder)
    back = pycolmap.Reconstruction()
    back.read_text(folder)
    return [back.images[number].name for number in range(1, len(names) + 1)]
