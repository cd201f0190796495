"""Results on disk: ``Memory``."""
