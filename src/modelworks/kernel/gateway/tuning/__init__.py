"""`/v1/fine_tuning`: jobs and their checkpoints that answer."""
