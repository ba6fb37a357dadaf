"""One provider's token in one process: when it is fetched, who waits, what is remembered."""
