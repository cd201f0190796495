"""What joblib brings along: loky, which is a library of its own here."""
