"""What both sides must agree on: codec, message kinds, sockets, names, the runtime directory."""
