"""The requests to an authorization server. Invariant: no other folder opens a socket to one."""
