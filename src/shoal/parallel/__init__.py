"""Running calls: the front end, and the way of a batch to a worker and back."""
