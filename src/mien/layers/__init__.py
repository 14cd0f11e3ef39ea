"""Network blocks that two systems or more use, and the base classes of systems."""
