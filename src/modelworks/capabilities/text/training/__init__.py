"""One loop, and the batches and losses that the kinds of training put into it."""
