"""Capability `text`: train a small language model from plain text, measure it, and answer with any causal model."""
