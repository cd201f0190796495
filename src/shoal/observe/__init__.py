"""What happened in a run: the events, and the listeners that show them."""
