"""TUN/TAP interfaces, each in a supervised worker process."""
