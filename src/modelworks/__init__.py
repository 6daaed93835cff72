"""Modelworks: a private large-model platform in one install."""

__version__ = "0.1.0"
