"""TUN/TAP interfaces by Linux's system calls: ioctls, rtnetlink, namespaces."""
