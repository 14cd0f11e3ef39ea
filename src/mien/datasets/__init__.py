"""Corpora: one file each, the index of clips, and recordings from the feature store."""
