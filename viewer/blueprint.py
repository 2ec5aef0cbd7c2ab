"""The layout in which a recording opens: map on the left, current camera on the right, plots and log below."""

from __future__ import annotations

import rerun.blueprint as rrb

UP = (0.0, -1.0, 0.0)


def layout(scene_depth: float, *, live: bool = False) -> rrb.Blueprint:
    """The layout of the views. The eye starts behind and above the first camera and looks in the same direction;
    ``scene_depth`` is that camera's typical distance to the scene in world units. live: with the state of the tracker.
    """
    eye = rrb.EyeControls3D(
        position=(-0.35 * scene_depth, -0.6 * scene_depth, -1.1 * scene_depth),
        look_target=(0.0, 0.0, 0.9 * scene_depth),
        eye_up=UP,
    )
    map_view = rrb.Spatial3DView(
        origin="/world",
        contents=["$origin/**", "- /world/camera/depth", "- /world/camera/confidence"],
        name="Map",
        background=(24, 26, 32),
        line_grid=False,
        eye_controls=eye,
    )
    tracker = [rrb.TextDocumentView(origin="/tracking", name="Tracker")] if live else []
    camera_views = rrb.Vertical(
        *tracker,
        rrb.Spatial2DView(origin="/world/camera/image", name="Image"),
        rrb.Tabs(
            rrb.Spatial2DView(origin="/world/camera/depth", name="Depth"),
            rrb.Spatial2DView(origin="/world/camera/confidence", name="Confidence"),
        ),
        rrb.Horizontal(
            rrb.Spatial2DView(origin="/places/now", name="Place seen now"),
            rrb.Spatial2DView(origin="/places/before", name="and before"),
        ),
        row_shares=[0.5] * len(tracker) + [1, 1, 1],
        name="Current camera",
    )
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


def _plot(entity: str, name: str) -> rrb.TimeSeriesView:
    return rrb.TimeSeriesView(origin=entity, name=name, plot_legend=rrb.PlotLegend(visible=False))
