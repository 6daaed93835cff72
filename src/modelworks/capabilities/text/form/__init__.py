"""The form of an answer: grammars that it is held to while it is written, and its parts told apart as it arrives."""
