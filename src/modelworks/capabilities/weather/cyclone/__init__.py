"""Tropical cyclones: best tracks read, tracks forecast from tracks, cyclones found in gridded forecasts."""
