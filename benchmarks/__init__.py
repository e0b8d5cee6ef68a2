"""Measurements: of speed against other software, of cost, of training; see README.md."""
