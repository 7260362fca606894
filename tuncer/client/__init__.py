"""Code of any process that uses a device: how one is created, and what is asked of its worker."""
