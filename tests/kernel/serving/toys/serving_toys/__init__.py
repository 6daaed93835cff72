"""Toy tasks that prove the serving room with real processes."""
