"""Code of a device's worker process, which owns the descriptor and hands on the packets."""
