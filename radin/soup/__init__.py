"""Average ingredients into soups, in memory or block by block into a file.

May import: radin.ranking, radin.checkpoints and what they may import.
"""
