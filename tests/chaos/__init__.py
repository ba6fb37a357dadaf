"""A fleet under faults: `python -m tests.chaos` (`make chaos`), and a short form of it among the tests."""
