"""Modules that all packages of the zoo share, one for each topic."""
