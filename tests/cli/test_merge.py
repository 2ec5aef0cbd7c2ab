"""What ``recon merge`` says and how it exits; tests/retrieval/test_merge.py tests the merged maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.evaluate.changes import Change, Comparison
from recon.store.map import MapStore
from retrieval.candidates import Hit
from retrieval.compare import Compared
from retrieval.meetings import Meeting
from retrieval.merge import Merged
from retrieval.verification import Verification
from tests.cli.conftest import Recon
from tests.support import make_map

REJECTED = Verification(None, 9, 0, 0.0, 0.0, "only 9 features with depth match")
PAIRS = tuple(Meeting(pair, Hit(0, 0, 0.5), REJECTED, None, REJECTED.reason) for pair in ((0, 1), (0, 2), (0, 1)))


@pytest.mark.parametrize(
    ("joined", "code", "lines"),
    [
        ((0, 1, 2), 0, ["Merged 3 maps into c, all poses adjusted jointly."]),
        ((0, 2), 1, ["b does not meet the others.", "Merged 2 maps into c, all poses adjusted jointly."]),
        ((), 1, [*(f"{name} meets no other map." for name in ("a", "b", "d")), "Nothing is merged: no two maps meet in "
                 "three pairs of frames that agree."]),
    ],
)  # fmt: skip
def test_maps_that_do_not_meet_are_named_and_decide_the_exit_code(
    recon: Recon, monkeypatch: pytest.MonkeyPatch, joined: tuple[int, ...], code: int, lines: list[str]
) -> None:
    contradiction = () if len(joined) == 3 else ("a and b contradict each other.",)
    found = Merged((Path("a"), Path("b"), Path("d")), joined, PAIRS, adjusted=True, contradictions=contradiction)
    monkeypatch.setenv("RECON_WORKERS", "0")
    monkeypatch.setattr("retrieval.merge.merge", lambda folders, out, tell, adjust: found)
    pages = list[Path]()
    monkeypatch.setattr("cli.merge.write_page", pages.append)
    outcome = recon("merge", "a", "b", "d", "--out", "c")
    assert pages == ([Path("c")] if joined else [])
    assert (outcome.code, outcome.err) == (code, "")
    assert outcome.out.splitlines() == [
        "a and b: 0 of 2 pairs of frames verified",
        "a and d: 0 of 1 pairs of frames verified",
        "b and d: 0 of 0 pairs of frames verified",
        *contradiction,
        *lines,
    ]


def test_what_cannot_be_merged_is_one_line(recon: Recon, tmp_path: Path) -> None:
    make_map(tmp_path / "run")
    for arguments, words in (
        ((tmp_path / "run", "--out", tmp_path / "out"), "A merge needs two or more different maps."),
        ((tmp_path / "run", tmp_path / "none", "--out", tmp_path / "out"), "none does not exist."),
        ((tmp_path / "run", tmp_path / "none", "--out", tmp_path / "run"), "is not empty. Choose another --out"),
    ):
        outcome = recon("merge", *arguments)
        assert outcome.code == 2
        assert words in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_ctrl_c_leaves_nothing_unfinished(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folders: object, out: Path, *_: object, **__: object) -> None:
        made = make_map(out)
        MapStore(out).write_places(made.frames, (), made.points, complete=False)
        raise KeyboardInterrupt

    monkeypatch.setenv("RECON_WORKERS", "0")
    monkeypatch.setattr("retrieval.merge.merge", interrupted)
    outcome = recon("merge", "a", "b", "--out", tmp_path / "out")
    assert (outcome.code, outcome.err) == (130, "Interrupted: nothing is changed, and no new map is written.\n")
    assert not (tmp_path / "out").exists()


def test_a_crop_and_a_split_say_what_they_wrote(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(out: Path, _: object) -> None:
        (out / "map").mkdir(parents=True)
        raise KeyboardInterrupt

    make_map(tmp_path / "run")
    outcome = recon("crop", tmp_path / "run", "--out", tmp_path / "part", "--keep-every", "2")
    assert (outcome.code, outcome.out) == (0, f"Wrote {tmp_path / 'part'}: 3 frames with depth.\n")
    assert (tmp_path / "part" / "report.html").is_file()
    outcome = recon("split", tmp_path / "run", "--out", tmp_path / "parts", "--at", "0.25")
    assert outcome.out.endswith(f"Wrote {tmp_path / 'parts' / 'part_2'}: 3 frames with depth.\n")
    with monkeypatch.context() as patched:
        patched.setattr("recon.parts.write_members", interrupted)
        outcome = recon("split", tmp_path / "run", "--out", tmp_path / "none", "--at", "0.25")
        assert outcome.code == 130
        assert outcome.err == "Interrupted: nothing is changed, and no part is written.\n"
        assert not (tmp_path / "none").exists()
    outcome = recon("run", tmp_path / "run" / "colmap" / "images", "--out", tmp_path / "part", "--resume")
    assert outcome.code == 2
    assert "recon import, merge, split and crop make such maps" in outcome.err


def test_maps_that_do_not_meet_are_not_compared(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.compare.compare_maps", lambda first, second, out, tell: Compared(None, (1, 48)))
    outcome = recon("compare", "a", "b", "--out", tmp_path / "out")
    assert (outcome.code, outcome.out) == (1, "a and b do not meet: 1 of 48 pairs of frames verified.\n")
    change = Change(False, np.array([[0.0, 0, 0], [1, 2, 4]]))
    comparison = Comparison(Sim3.identity(), (change,), 0.03, (0.9, 0.8))
    monkeypatch.setattr("retrieval.compare.compare_maps", lambda *_: Compared(comparison, (9, 48)))
    outcome = recon("compare", "a", "b", "--out", "c")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split() == [
        "gone",
        "0.500",
        "1.000",
        "2.000",
        *["1.00", "x", "2.00", "x", "4.00"],
    ]
    assert outcome.out.splitlines()[-1] == f"Wrote {Path('c') / 'changes.ply'} and {Path('c') / 'changes.png'}."
    same = replace(comparison, changes=())
    monkeypatch.setattr("retrieval.compare.compare_maps", lambda *_: Compared(same, (9, 48)))
    first, *_, last = recon("compare", "a", "b", "--out", "c").out.splitlines()
    assert (first, last) == ("No change is found.", f"Wrote {Path('c') / 'changes.ply'}.")
