"""Weather: forecasts on grids, trained from grids of one's own, and what they are worth."""
