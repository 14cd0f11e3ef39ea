"""Decoding and encoding of video, audio and images, with exact times."""
