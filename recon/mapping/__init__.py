"""From chunks to one map: chunks are aligned and placed, doubted, closed into loops, corrected, and given one unit."""
