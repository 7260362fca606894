"""Code of whoever calls an actor: references, connections, futures. Any process runs it."""
