"""Motion: turns, attempts, commits and the worker that drives them."""
