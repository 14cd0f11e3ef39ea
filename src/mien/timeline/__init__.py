"""The Timeline table, its summary and its file formats."""
