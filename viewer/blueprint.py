"""The layout in which a recording opens: map on the left, current camera on the right, plots and log below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rerun.blueprint as rrb


@dataclass(frozen=True)
class Eye:
    """From where the map is seen at first: a place, the place that it looks at, and the direction up; in the world."""

    position: Sequence[float]
    target: Sequence[float]
    up: Sequence[float]

    @classmethod
    def behind_first_camera(cls, scene_depth: float) -> Eye:
        """Behind and above the camera at the origin, looking in the same direction. scene_depth: that camera's typical
        distance to the scene.
        """
        position = -0.4 * scene_depth, -0.7 * scene_depth, -1.3 * scene_depth
        return cls(position, (0.0, 0.15 * scene_depth, 0.9 * scene_depth), (0.0, -1.0, 0.0))


def layout(start: Eye, *, places: bool = True, live: bool = False) -> rrb.Blueprint:
    """The layout of the views. places: with recognised places beside each other. live: with the tracker's state."""
    eye = rrb.EyeControls3D(position=start.position, look_target=start.target, eye_up=start.up)
    map_view = rrb.Spatial3DView(
        origin="/world",
        contents=["$origin/**", "- /world/camera/depth", "- /world/camera/confidence"],
        name="Map",
        background=(24, 26, 32),
        line_grid=False,
        eye_controls=eye,
    )
    camera_views = _live_views(places=places) if live else _views(places=places)
    figures = rrb.Horizontal(
        rrb.Tabs(
            _plot("/plots/speed", "Frames read per second"),
            _plot("/plots/pace", "Seconds per frame"),
        ),
        _plot("/plots/residual", "Overlap residual (share of depth)"),
        rrb.Tabs(
            *([_plot("/plots/tracked", "Corners that agree with the pose")] if live else []),
            _plot("/plots/memory", "Memory (MB)"),
            _plot("/plots/lag", "Viewer behind (s)"),
        ),
        rrb.TextLogView(origin="/log", name="Log", columns=rrb.TextLogColumns(text_log_columns=["LogLevel", "Body"])),
        column_shares=[1, 1, 1, 1.6],
    )
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(map_view, camera_views, column_shares=[3, 1]),
            figures,
            row_shares=[3.2, 1],
        ),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", timeline="frame", play_state="following"),
        auto_views=False,
    )


def _views(*, places: bool) -> rrb.Vertical:
    """The mapped image, its depth, and recognised places, below each other."""
    image, *depth = _mapped("Image")
    recognised = [_recognised()] if places else []
    return rrb.Vertical(image, rrb.Tabs(*depth), *recognised, name="Current camera")


def _live_views(*, places: bool) -> rrb.Vertical:
    """The tracker's state, and what the camera sees now; what comes later is behind that."""
    recognised = [_recognised()] if places else []
    seen = rrb.Tabs(rrb.Spatial2DView(origin="/now", name="Camera now"), *_mapped("Mapped image"), *recognised)
    tracker = rrb.TextDocumentView(origin="/tracking", name="Tracker")
    return rrb.Vertical(tracker, seen, row_shares=[1, 3], name="Current camera")


def _mapped(name: str) -> list[rrb.Spatial2DView]:
    """The image of a mapped frame, under a name, its depth and its confidence."""
    return [
        rrb.Spatial2DView(origin="/world/camera/image", name=name),
        rrb.Spatial2DView(origin="/world/camera/depth", name="Depth"),
        rrb.Spatial2DView(origin="/world/camera/confidence", name="Confidence"),
    ]


def _recognised() -> rrb.Horizontal:
    """Recognised places beside each other."""
    now = rrb.Spatial2DView(origin="/places/now", name="Place seen now")
    return rrb.Horizontal(now, rrb.Spatial2DView(origin="/places/before", name="and before"), name="Places")


def _plot(entity: str, name: str) -> rrb.TimeSeriesView:
    return rrb.TimeSeriesView(origin=entity, name=name, plot_legend=rrb.PlotLegend(visible=False))
