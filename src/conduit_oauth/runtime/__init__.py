"""What threads, forks and the end of the process have in common: locks, waits, and who is told.

Invariant: nothing that a framework may replace is bound at import.
"""
