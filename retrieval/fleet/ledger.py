"""What is known of the maps of a fleet: which are in the place store, and which pairs met where. A SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon.core.errors import MapError
from recon.core.similarity import Sim3
from recon.mapping.joining import Bridge
from retrieval.candidates import Hit
from retrieval.meetings import Meeting
from retrieval.verification import Verification

NAME = "meetings.db"
PATIENCE = 60.0  # seconds
TABLES = """
CREATE TABLE IF NOT EXISTS maps (name TEXT PRIMARY KEY, digest TEXT, searched INTEGER);
CREATE TABLE IF NOT EXISTS pairs (first TEXT, second TEXT, meetings TEXT, PRIMARY KEY (first, second));
"""


@dataclass(frozen=True)
class Known:
    """digest: of the map that is in the place store. searched: whether its meetings with all others are known."""

    digest: str
    searched: bool


class FleetLedger:
    """Reads and writes ``meetings.db``. Frames have the numbers that they have in their own maps."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        with self._explained():
            self._database = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
            self._database.executescript(TABLES)

    def maps(self) -> dict[str, Known]:
        with self._explained():
            rows = self._database.execute("SELECT name, digest, searched FROM maps").fetchall()
        return {name: Known(digest, bool(searched)) for name, digest, searched in rows}

    def forget(self, name: str) -> None:
        """Forget a map and where it meets others."""
        with self._explained(), self._database:
            self._database.execute("DELETE FROM pairs WHERE first = ? OR second = ?", (name, name))
            self._database.execute("DELETE FROM maps WHERE name = ?", (name,))

    def note(self, name: str, digest: str) -> None:
        """Note that a map is in the place store."""
        with self._explained():
            self._database.execute("INSERT OR REPLACE INTO maps VALUES (?, ?, 0)", (name, digest))

    def note_searched(self, name: str) -> None:
        with self._explained():
            self._database.execute("UPDATE maps SET searched = 1 WHERE name = ?", (name,))

    def has(self, first: str, second: str) -> bool:
        """Whether two maps have been compared, in either order."""
        asked = "SELECT 1 FROM pairs WHERE (first = ? AND second = ?) OR (first = ? AND second = ?)"
        with self._explained():
            return self._database.execute(asked, (first, second, second, first)).fetchone() is not None

    def add(self, first: str, second: str, meetings: Sequence[Meeting]) -> None:
        text = json.dumps([_row(meeting) for meeting in meetings])
        with self._explained():
            self._database.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)", (first, second, text))

    def pairs(self) -> Iterator[tuple[str, str, list[Meeting]]]:
        """All pairs that have been compared, one after the other."""
        with self._explained():
            for first, second, text in self._database.execute("SELECT * FROM pairs ORDER BY first, second"):
                yield first, second, [_meeting(row) for row in json.loads(text)]

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise MapError(
                f"{self._path} cannot be used ({error}). If it is damaged, delete its folder: recon fleet merge makes "
                "it again."
            ) from error


def _row(meeting: Meeting) -> dict[str, Any]:
    hit, found, bridge = meeting.hit, meeting.found, meeting.bridge
    poses = [pose.matrix().tolist() for pose in (bridge.first_from_second, bridge.second_from_cam)] if bridge else []
    return {
        "hit": [hit.frame, hit.earlier, hit.similarity],
        "found": [found.matches, found.inliers, found.residual, found.agreement],
        "poses": poses,
        "reason": meeting.reason,
    }


def _meeting(row: dict[str, Any]) -> Meeting:
    hit = Hit(*row["hit"])
    poses = [Sim3.from_matrix(pose) for pose in row["poses"]]
    bridge = Bridge((hit.earlier, hit.frame), *poses) if poses else None
    matches, inliers, residual, agreement = row["found"]
    found = Verification(poses[0] if poses else None, matches, inliers, residual, agreement, row["reason"])
    return Meeting((0, 1), hit, found, bridge, row["reason"])
