"""Encoders: feature vectors from face crops, face meshes, audio and segments of video."""
