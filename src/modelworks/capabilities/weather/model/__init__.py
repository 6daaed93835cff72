"""What forecasts: climatology, a ridge regression on patterns, networks, and how they are put together and kept."""
