"""A run on disk: the map, the journal for resuming, the report, and the lock of its single writer."""
