"""The rules: pure functions and values, no I/O, no asyncio, no clock.

Everything that decides lives here and can be tested with plain lists; what
moves (stores, loops, workers) lives above and asks.

Floor 1.  May import: core, floor 0.  Imported by: every floor above.
"""
