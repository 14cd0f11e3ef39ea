"""Synthetic corpus with known truth: simulated face tracks, synthesised speech and rendered video."""
