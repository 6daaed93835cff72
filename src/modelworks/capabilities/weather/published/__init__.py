"""Models that others have published, behind the interface of our own: the user brings the files."""
