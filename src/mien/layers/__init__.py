"""Network blocks with two users or more, and the base classes of systems."""
