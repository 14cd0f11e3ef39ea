"""Faces: detection, mesh, tracking, re-identification, alignment and crops."""
