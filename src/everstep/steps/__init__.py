"""Steps: ordinary functions that are run by requests and messages."""
