"""Train the zoos of the book: digits, photos, zoos broken on purpose, and averages along one run.

`train` and `augment` serve all of them. They may import everything up to `recipes`, and `networks`
and `bench` in `experiments`.
"""
