"""Capability `retrieval`: an index of passages, searched by words and by meaning."""
