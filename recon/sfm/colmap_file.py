"""COLMAP's database file: its numbers, and what pycolmap does not do with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import pycolmap

from recon.core.errors import MapError
from recon.core.quantities import counted
from recon.sfm.matching import Pair

ID_LIMIT = 2**31 - 1  # a pair's number: the first image's id times this, plus the second's id


def image_id(frame_index: int) -> int:
    """COLMAP's ids start at 1."""
    return frame_index + 1


def image_name(frame_index: int) -> str:
    """A number instead of the file name: COLMAP splits names at spaces and reads a leading # as a comment."""
    return f"{frame_index:09d}"


def lone_rig(camera: pycolmap.Camera) -> pycolmap.Rig:
    """COLMAP's rig with a single camera, whose id it has."""
    rig = pycolmap.Rig(rig_id=camera.camera_id)
    rig.add_ref_sensor(camera.sensor_id)
    return rig


def lone_frame(image: pycolmap.Image) -> pycolmap.Frame:
    """COLMAP's frame of an image of a ``lone_rig``."""
    frame = pycolmap.Frame(frame_id=image.image_id, rig_id=image.camera_id)
    frame.add_data_id(image.data_id)
    return frame


def delete(path: Path) -> None:
    """Delete an SQLite file and any journal left by a killed process, which SQLite would apply to a new file of that
    name."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def delete_features(path: Path, frame_indices: Iterable[int]) -> None:
    """Delete the features of frames and their matches from a file that is open nowhere in this process.

    Two SQLite libraries in one process release each other's locks.
    """
    with closing(sqlite3.connect(path)) as connection, connection:
        for number in map(image_id, frame_indices):
            connection.execute("DELETE FROM keypoints WHERE image_id = ?", (number,))
            connection.execute("DELETE FROM descriptors WHERE image_id = ?", (number,))
            ends = (ID_LIMIT, number, ID_LIMIT, number)
            connection.execute("DELETE FROM matches WHERE pair_id / ? = ? OR pair_id % ? = ?", ends)
            connection.execute("DELETE FROM two_view_geometries WHERE pair_id / ? = ? OR pair_id % ? = ?", ends)


def trim(path: Path, frames: Sequence[int]) -> dict[Pair, int]:
    """Reduce a COLMAP database to ``frames``: delete all other frames and all unverified matches.

    Lenses, and pairs of these frames that were matched later, stay as they are. Returns the number of verified matches
    of every pair. Pairs that had too few matches to verify are omitted and may be matched again. Raises MapError if the
    file is missing or damaged, or lacks the features of any of the frames.
    """
    if not path.is_file():
        raise MapError(f"{path} is missing, so the run cannot be resumed. Rebuild the map with --overwrite.")
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA foreign_keys = ON")
            (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(sound)
            _trim(connection, frames)
            (count,) = connection.execute("SELECT COUNT(*) FROM images JOIN descriptors USING (image_id)").fetchone()
            pairs = connection.execute("SELECT pair_id, rows FROM two_view_geometries").fetchall()
    except sqlite3.Error as error:
        raise MapError(f"{path} is damaged ({error}). Rebuild the map with --overwrite.") from error
    if count != len(frames):
        missing = counted(len(frames) - count, "frame")
        raise MapError(f"{path} lacks the features of {missing}. Rebuild the map with --overwrite.")
    return {(number // ID_LIMIT - 1, number % ID_LIMIT - 1): rows for number, rows in pairs}


def _trim(connection: sqlite3.Connection, frames: Sequence[int]) -> None:
    connection.execute("CREATE TEMP TABLE kept (id INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO kept VALUES (?)", [(image_id(index),) for index in frames])
    connection.execute("DELETE FROM images WHERE image_id NOT IN kept")
    connection.execute("DELETE FROM frames WHERE frame_id NOT IN kept")
    of_others = "DELETE FROM two_view_geometries WHERE pair_id / ? NOT IN kept OR pair_id % ? NOT IN kept"
    connection.execute(of_others, (ID_LIMIT, ID_LIMIT))
    connection.execute("DELETE FROM matches WHERE pair_id NOT IN (SELECT pair_id FROM two_view_geometries)")
    connection.execute("DELETE FROM cameras WHERE camera_id NOT IN (SELECT camera_id FROM images)")
    connection.execute("DELETE FROM rigs WHERE rig_id NOT IN (SELECT rig_id FROM frames)")
