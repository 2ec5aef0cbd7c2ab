"""The clock of a benchmark: wall time, or processor time on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

Clock = Literal["wall", "processor"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
