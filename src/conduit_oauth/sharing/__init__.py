"""One token for many processes: leases, sealing, and what a fleet knows of its servers."""
