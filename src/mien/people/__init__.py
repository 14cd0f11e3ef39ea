"""Same person, same name over the recordings of a folder: descriptors of faces, their grouping, names."""
