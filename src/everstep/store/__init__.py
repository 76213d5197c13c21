"""Memory: what a run must remember, and the stores that keep it."""
