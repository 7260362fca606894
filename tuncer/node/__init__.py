"""A node: what ``tuncer run`` starts from a configuration file, and keeps running."""
