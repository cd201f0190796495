"""loky, which joblib contains. Here it is the installed library."""
