"""A capability that exists for tests only: it counts."""
