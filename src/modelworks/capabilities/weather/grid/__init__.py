"""Grids: what variables are called, how grids are laid out, and the formats that they are read from and written to."""
