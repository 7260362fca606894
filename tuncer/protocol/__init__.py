"""What clients and worker must agree on: the ring, the wire format, sockets, paths, terms."""
