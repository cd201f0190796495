"""Objects on disk: ``dump`` and ``load``, in joblib's format."""
