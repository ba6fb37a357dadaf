"""What a client proves itself with: secrets, keys, certificates, and their sources."""
