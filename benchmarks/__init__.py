"""Measurements of speed against other software; see README.md."""
