"""Stands for the program ``recon``: makes an empty map at once, or fails, as the name of its source says."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from recon.core.types import SparsePoints
from recon.store.ledger import Ledger
from recon.store.map import MapStore

command, source = sys.argv[1:3]
out = Path(sys.argv[sys.argv.index("--out") + 1])
print(" ".join(sys.argv[1:]))
if "bad" in source:
    print("recon: There is nothing to see.")
    sys.exit(2)
tries = Path(f"{out}.tries")
tries.open("a").write("x")
if "crash" in source and len(tries.read_text()) <= int(source[-1]):
    out.mkdir(parents=True, exist_ok=True)
    (out / "rest").touch()
    if "resumable" in source:
        (out / "map").mkdir(exist_ok=True)
        Ledger(out).replace("parts", [{"first": 0, "start": 0.0, "source": source, "settings": {}}])
    os.kill(os.getpid(), signal.SIGKILL)
if "slow" in source and "--resume" not in sys.argv:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    (out / "map").mkdir(parents=True)
    Ledger(out).replace("parts", [{"first": 0, "start": 0.0, "source": source, "settings": {}}])
    (out / "begun").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(143)
if out.is_dir() and any(out.iterdir()) and "--resume" not in sys.argv:
    print("recon: it is not empty")
    sys.exit(2)
MapStore(out).write_places((), (), SparsePoints.empty(), complete=True)
