"""Live prediction: rows while frames and sound arrive; cameras, network streams and screens as sources."""
