"""Chats and completions: read from the wire, answered by a replica, written back."""
