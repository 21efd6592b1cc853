"""The published ingredients and results of Model soups, and the full experiment on ImageNet.

May import: radin.experiments.intervals, radin.experiments.zoos and what they may import.
"""
