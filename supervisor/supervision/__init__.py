"""Code inside a supervisor process: children, strategies, forks, the store of descriptors."""
