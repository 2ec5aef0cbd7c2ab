"""A run on disk: the map, the journal by which a run resumes, the report, and the lock of its one writer."""
