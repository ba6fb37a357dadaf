"""`make operations`: what operations do to a fleet and its store, on real servers; written to docs/fleet-report.md."""
