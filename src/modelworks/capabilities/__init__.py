"""Floor 2: one folder per capability, all of one shape; found by entry point."""
