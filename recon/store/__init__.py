"""A run on disk: the map, the journal from which it can be resumed, the report, and the lock of its single writer."""
