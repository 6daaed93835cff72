"""Data spaces asked from other people's pages: the embedded chat, the shared page, and what they stand on."""
