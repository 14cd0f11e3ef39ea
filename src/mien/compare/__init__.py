"""Comparison of timelines: agreement, averages around events, groups of recordings, agreement by attribute."""
