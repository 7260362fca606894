"""Actors and supervision on processes of the operating system."""
