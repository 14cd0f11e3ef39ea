"""Training: from a recipe and data to a checkpoint, for windows of streams and for single images."""
