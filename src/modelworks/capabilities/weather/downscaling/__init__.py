"""A region's finer grid from a coarse one: pairs, regression on the coarse points around, and what it is worth."""
