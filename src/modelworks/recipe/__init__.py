"""Recipes: from named sources of text to a model, stage by stage, with every source and its licence written down.

The command line's side of the house: it reads files, makes data sets of them, and has a server do the rest.
"""
