"""Programs for the project's own chores that need more than Python."""
