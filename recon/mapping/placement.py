"""Placement of submaps: each is aligned to the previous one by the frames they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from recon.core.similarity import Sim3
from recon.core.types import Chunk, ChunkGeometry, PlacedFrame, Submap
from recon.mapping.alignment import align_frames
from recon.mapping.world import median_depth

Piece = dict[int, PlacedFrame]


class Placement:
    """The growing map: pieces of placed frames, each connected and in its own world frame.

    There is one piece as long as every chunk shares placed frames with the previous one. The world of a piece is its
    first camera; its unit is the median depth of its first submap.
    """

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._last: Submap | None = None
        self.revised: dict[int, Sim3] = {}  # poses of earlier submaps that the newest chunk moved
        self._submap_of: dict[int, int] = {}
        self._world_from_submap: dict[int, Sim3] = {}

    @property
    def main(self) -> Piece:
        """The largest piece, the earlier one of equals; empty if nothing is placed."""
        return max(self.pieces, key=len, default={})

    @property
    def first_submap(self) -> int:
        """Index of the first submap of the piece that grows."""
        return min((self._submap_of[index] for index in self.pieces[-1]), default=0)

    def place(self, chunk: Chunk, geometry: ChunkGeometry) -> tuple[Submap, tuple[PlacedFrame, ...]]:
        """Place a chunk that has at least one frame; returns the submap and the frames new in the map.

        A chunk that shares nothing with the previous one starts a new piece. A frame stays with the submap, and so with
        the piece, that placed it first, even if the frames of an overlap appear again in a new piece.
        """
        aligned = self._align(geometry)
        if aligned is None:
            self.pieces.append({})
            aligned = first_world(geometry), 0.0
        submap = Submap(chunk.index, geometry, *aligned)
        piece = self.pieces[-1]
        frames = {frame.index: frame for frame in chunk.frames}
        new = tuple(
            PlacedFrame(
                index=found.index,
                timestamp=frames[found.index].timestamp,
                name=frames[found.index].name,
                camera=found.camera,
                world_from_cam=submap.world_from_chunk @ Sim3.from_matrix(found.cam_from_chunk).inverse(),
            )
            for found in geometry.frames
            if found.index not in self._submap_of
        )
        piece.update({frame.index: frame for frame in new})
        self._revise(piece, submap)
        self._submap_of.update(dict.fromkeys((frame.index for frame in new), submap.index))
        self._world_from_submap[submap.index] = submap.world_from_chunk
        self._last = submap
        return submap, new

    def _revise(self, piece: Piece, submap: Submap) -> None:
        """Move earlier frames of the piece to their poses in the submap; their depth keeps its scale."""
        self.revised = {}
        for index, pose in submap.geometry.revised.items():
            if index in piece:
                found = submap.world_from_chunk @ Sim3.from_matrix(pose).inverse()
                world_from_cam = Sim3(piece[index].world_from_cam.scale, found.rotation, found.translation)
                number = self._submap_of[index]
                moved = world_from_cam @ piece[index].world_from_cam.inverse()
                self.revised[number] = moved @ self._world_from_submap[number]
                piece[index] = replace(piece[index], world_from_cam=world_from_cam)
        self._world_from_submap.update(self.revised)

    def replace_main(self, frames: Iterable[PlacedFrame]) -> None:
        """Replace the frames of the largest piece, if there is one."""
        if self.pieces:
            row = max(range(len(self.pieces)), key=lambda row: len(self.pieces[row]))
            self.pieces[row] = {frame.index: frame for frame in frames}

    def move(self, world_from_submap: Mapping[int, Sim3]) -> None:
        """Set the poses of submaps, by index; their frames and later submaps move along.

        If these submaps belong to several pieces, the pieces become one.
        """
        connected = [
            piece for piece in self.pieces if any(self._submap_of[index] in world_from_submap for index in piece)
        ]
        piece = {index: frame for part in connected for index, frame in part.items()}
        for index, frame in piece.items():
            number = self._submap_of[index]
            if number in world_from_submap:
                moved = world_from_submap[number] @ self._world_from_submap[number].inverse()
                piece[index] = replace(frame, world_from_cam=moved @ frame.world_from_cam)
        self.pieces = [other for other in self.pieces if other not in connected] + [piece]
        self._world_from_submap.update(world_from_submap)
        if self._last is not None:
            self._last = replace(self._last, world_from_chunk=self._world_from_submap[self._last.index])

    def _align(self, geometry: ChunkGeometry) -> tuple[Sim3, float] | None:
        """World from this chunk and the residual relative to scene depth; None if no shared frame determines it."""
        if self._last is None:
            return None
        before = {frame.index: frame for frame in self._last.geometry.frames}
        shared = [(frame, before[frame.index]) for frame in geometry.frames if frame.index in before]
        try:
            alignment = align_frames(shared)
        except ValueError:
            return None
        depth = median_depth(tuple(previous for _, previous in shared))
        return self._last.world_from_chunk @ alignment.b_from_a, alignment.residual / depth


def first_world(geometry: ChunkGeometry) -> Sim3:
    """World from chunk for the first submap of a piece: the first camera at the origin, median depth 1."""
    scale = 1.0 / median_depth(geometry.frames)
    return Sim3(scale, np.eye(3), np.zeros(3)) @ Sim3.from_matrix(geometry.frames[0].cam_from_chunk)
