"""Train the zoos of the book: digits, photos, zoos broken on purpose, and averages along one run.

`train` and `augment` serve all of them.
May import: radin.experiments.networks, radin.experiments.bench and what they may import.
"""
