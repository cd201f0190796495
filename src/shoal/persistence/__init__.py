"""Objects on disk: how they are compressed."""
