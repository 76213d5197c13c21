"""How fast everstep is, beside what the same store can do at all.

    python -m bench W1 [--store URL] [--variant pydantic] [--json] [--quick]
    python -m bench all

Each work measures in rounds, and in each round also the raw bound: the same
rows written by a bare loop on the same store.  The machine may be busy; the
ratio says more than the rate.
"""
