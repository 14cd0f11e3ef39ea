"""Pages, pictures and terminal output that show results to people."""
