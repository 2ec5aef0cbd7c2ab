"""What to tell the person who holds the phone."""

from __future__ import annotations

from collections import deque

import numpy as np

from recon.core.events import FrameTracked

FAST_TURN = np.radians(50)  # a second
FAST_STEP = 0.5  # of the scene's depth, a second
SPAN = 0.5  # seconds over which speed is measured
LARGE_JUMP = 0.01  # of the scene's depth; the map has changed, not the camera
LARGE_DRIFT = 0.05  # of the scene's depth

BEGIN = "Step sideways, slowly. Turning on the spot is not enough."
RETURN = "Come back to where you were."
SLOWER = "Move slower."
DETAIL = "Show something with more detail."
REVISIT = "Look again at a place that you have shown before."
GO_ON = "Go on."


class Adviser:
    """Gives advice from the poses that the tracker states. scene_depth: typical, in the unit of the poses."""

    def __init__(self) -> None:
        self._recent: deque[FrameTracked] = deque()

    def advise(self, said: FrameTracked, scene_depth: float) -> str:
        """The advice after a frame."""
        too_fast = self._too_fast(said, scene_depth)
        match said.state:
            case "waiting":
                return BEGIN
            case "lost":
                return RETURN
            case _ if too_fast:
                return SLOWER
            case _ if said.drift > LARGE_DRIFT:
                return REVISIT
            case "weak":
                return DETAIL
        return GO_ON

    def _too_fast(self, said: FrameTracked, scene_depth: float) -> bool:
        if said.world_from_cam is None:
            self._recent.clear()
            return False
        if self._recent and (said.jump > LARGE_JUMP or said.piece != self._recent[-1].piece):
            self._recent.clear()
        self._recent.append(said)
        while said.timestamp - self._recent[0].timestamp > SPAN:
            self._recent.popleft()
        before = self._recent[0]
        seconds = said.timestamp - before.timestamp
        if before.world_from_cam is None or seconds < SPAN / 2:
            return False
        moved = np.linalg.inv(before.world_from_cam) @ said.world_from_cam
        turned = np.arccos(np.clip((np.trace(moved[:3, :3]) - 1) / 2, -1, 1))
        step = np.linalg.norm(moved[:3, 3]) / scene_depth
        return bool(turned > FAST_TURN * seconds or step > FAST_STEP * seconds)
