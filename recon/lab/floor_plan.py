"""The rooms of the program as an SVG picture: floors, rooms, and the arrows between them with their counts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from textwrap import wrap

from recon.lab.architecture import Arrow, Building

WIDTH, FLOOR, MARGIN = 1640, 140, 60  # px
ROOM_WIDTH, ROOM_HEIGHT = 228, 96
LANE = 14  # px between an arrow and rooms or other arrows that it passes
LETTERS = 38  # of small print in a row of a room
SWEEPS = 8
STYLE = """
text { font-family: Helvetica, Arial, sans-serif; text-anchor: middle; fill: #222 }
.name { font-size: 17px; font-weight: bold }
.small { font-size: 11px; fill: #555 } .floor { font-size: 12px; fill: #777 }
.count { font-size: 13px; stroke: #fff; stroke-width: 4px; paint-order: stroke }
.page { fill: #fff } .band { fill: #f6f6f3 }
.recon { fill: #dcebf7; stroke: #666 } .above { fill: #fbe6c8; stroke: #666 } .lab { fill: #e6e6e6; stroke: #666 }
.arrow { fill: none; stroke: #666; stroke-width: 1.4 } .circular { stroke: #c00; stroke-width: 2.5 }
"""
Place = tuple[float, float]


def draw(building: Building) -> str:
    """The picture. If a path through other rooms replaces an arrow, the arrow is not drawn but listed in its room."""
    sheet = _Sheet(building)
    height = FLOOR * (1 + max(building.floors.values())) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        *_bands(building),
        *(sheet.line(arrow) for arrow in sheet.drawn),
        *(sheet.room(room) for room in building.floors),
        *(sheet.count(arrow) for arrow in sheet.drawn),
        _caption(building, height),
    ]
    return "\n".join([*parts, "</svg>\n"])


def _bands(building: Building) -> list[str]:
    top = max(building.floors.values())
    rows = [(floor, FLOOR * (top - floor)) for floor in range(top + 1)]
    bands = [f'<rect class="band" y="{y}" width="{WIDTH}" height="{FLOOR}"/>' for floor, y in rows if floor % 2]
    return bands + [f'<text class="floor" x="32" y="{y + FLOOR // 2}">floor {floor}</text>' for floor, y in rows]


def _caption(building: Building, height: int) -> str:
    rooms, floors, arrows, imports, circular = building.figures()
    text = (
        f"{rooms} rooms on {floors} floors; {arrows} arrows for {imports} imports, {circular} of them up or round. "
        "An arrow that a longer way stands in for is written into its room."
    )
    return f'<text class="floor" x="{WIDTH // 2}" y="{height - 10}">{text}</text>'


class _Sheet:
    """The positions of rooms and arrows. drawn: the arrows that are not listed in rooms."""

    def __init__(self, building: Building) -> None:
        self._building = building
        self.drawn = sorted({*building.direct(), *building.circular})
        self._top = max(building.floors.values())
        self._across = self._arranged()
        self._ways = self._free_ways()

    def _arranged(self) -> dict[str, float]:
        """The middle of every room: side by side on its floor, in the order of the rooms to which their arrows lead."""
        rows = [[room for room, at in self._building.floors.items() if at == floor] for floor in range(self._top + 1)]
        across = {room: x for row in rows for room, x in _spread(row).items()}
        for sweep in range(SWEEPS):
            for row in rows if sweep % 2 else rows[::-1]:
                middles = {room: self._pull(room, across) for room in row}
                across |= _spread(sorted(row, key=lambda room: (middles[room], room)))
        return across

    def _pull(self, room: str, across: dict[str, float]) -> float:
        ends = [end for arrow in self.drawn if room in arrow for end in arrow if end != room]
        return sum(across[end] for end in ends) / len(ends) if ends else across[room]

    def _free_ways(self) -> dict[Arrow, list[Place]]:
        """The points at which arrows cross the floors between their ends, beside the rooms there."""
        ways: dict[Arrow, list[Place]] = {}
        taken: set[Place] = set()
        for start, end in self.drawn:
            first, last = self._building.floors[start], self._building.floors[end]
            ways[start, end] = []
            for floor in range(first - 1, last, -1):
                share = (first - floor) / (first - last)
                x = self._beside((1 - share) * self._across[start] + share * self._across[end], floor, taken)
                taken.add((x, self._height(floor)))
                ways[start, end].append((x, self._height(floor)))
        return ways

    def _beside(self, wanted: float, floor: int, taken: Iterable[Place]) -> float:
        """The nearest free place on a floor, with neither a room nor another arrow."""
        reach = ROOM_WIDTH / 2 + LANE
        rooms = [self._across[room] for room, at in self._building.floors.items() if at == floor]
        passed = [x for x, y in taken if y == self._height(floor)]
        lanes = sorted(range(MARGIN, WIDTH, LANE), key=lambda x: abs(x - wanted))
        return next(
            x
            for x in lanes
            if all(abs(x - room) >= reach for room in rooms) and all(abs(x - other) >= LANE for other in passed)
        )

    def _height(self, floor: int) -> float:
        return FLOOR * (self._top - floor + 0.5)

    def _ends(self, arrow: Arrow) -> tuple[Place, Place]:
        """The points where an arrow leaves its room and enters the other, side by side with other arrows, in their
        order.
        """
        start, end = arrow
        leaving = sorted((to for room, to in self.drawn if room == start), key=lambda to: self._next(start, to, 0))
        entering = sorted((room for room, to in self.drawn if to == end), key=lambda room: self._next(room, end, -1))
        return (
            (self._across[start] + _port(leaving, end), self._height(self._building.floors[start]) + ROOM_HEIGHT / 2),
            (self._across[end] + _port(entering, start), self._height(self._building.floors[end]) - ROOM_HEIGHT / 2),
        )

    def _next(self, start: str, end: str, which: int) -> float:
        """The horizontal position of an arrow's point next to its start (which: 0) or end (-1)."""
        way = self._ways[start, end]
        return way[which][0] if way else self._across[start if which else end]

    def line(self, arrow: Arrow) -> str:
        """An arrow, vertical where it passes the rooms between its ends."""
        (x, y), (to_x, to_y) = self._ends(arrow)
        path = f"M {x:.0f} {y:.0f}"
        for way_x, middle in self._ways[arrow]:
            path += _curve((x, y), (way_x, middle - ROOM_HEIGHT / 2)) + f" V {middle + ROOM_HEIGHT / 2:.0f}"
            x, y = way_x, middle + ROOM_HEIGHT / 2
        path += _curve((x, y), (to_x, to_y))
        tip = f" M {to_x - 4:.0f} {to_y - 8:.0f} L {to_x:.0f} {to_y:.0f} L {to_x + 4:.0f} {to_y - 8:.0f}"
        kind = "arrow circular" if arrow in self._building.circular else "arrow"
        return f'<path class="{kind}" d="{path}{tip}"/>'

    def count(self, arrow: Arrow) -> str:
        """The number of imports of an arrow, where it leaves its room."""
        (x, y), _ = self._ends(arrow)
        return f'<text class="count" x="{x:.0f}" y="{y + 15:.0f}">{self._building.arrows[arrow]}</text>'

    def room(self, room: str) -> str:
        """A room with its name, its size and the arrows that are not drawn."""
        x, top = self._across[room], self._height(self._building.floors[room]) - ROOM_HEIGHT / 2
        kind = "lab" if room.endswith(".lab") else "recon" if room.startswith("recon.") else "above"
        modules = self._building.modules[room]
        rows = [
            f'<text class="small" x="{x:.0f}" y="{top + 50 + 13 * number:.0f}">{escape(row)}</text>'
            for number, row in enumerate(wrap(self._written(room), LETTERS))
        ]
        box = f'x="{x - ROOM_WIDTH / 2:.0f}" y="{top:.0f}" width="{ROOM_WIDTH}" height="{ROOM_HEIGHT}"'
        size = f"{modules} module{'s' * (modules > 1)}"
        return "\n".join(
            [
                f'<rect class="{kind}" {box} rx="6"/>',
                f'<text class="name" x="{x:.0f}" y="{top + 20:.0f}">{escape(room)}</text>',
                f'<text class="small" x="{x:.0f}" y="{top + 35:.0f}">{size}</text>',
                *rows,
            ]
        )

    def _written(self, room: str) -> str:
        others = [
            f"{end.removeprefix('recon.')}\N{NO-BREAK SPACE}{count}"
            for (start, end), count in self._building.arrows.items()
            if start == room and (start, end) not in self.drawn
        ]
        return f"also {', '.join(others)}" if others else ""


def _spread(row: list[str]) -> dict[str, float]:
    step = (WIDTH - MARGIN) / len(row)
    return {room: MARGIN + step * (number + 0.5) for number, room in enumerate(row)}


def _port(rooms: list[str], room: str) -> float:
    return ROOM_WIDTH * ((rooms.index(room) + 0.5) / len(rooms) - 0.5)


def _curve(start: Place, end: Place) -> str:
    """A curve from one point to another below it, vertical at both."""
    (x, y), (to_x, to_y) = start, end
    bend = (to_y - y) * 0.6
    return f" C {x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
