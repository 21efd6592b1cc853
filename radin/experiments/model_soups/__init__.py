"""The published ingredients and results of Model soups, and a stand-in for those without ImageNet.

May import: radin.experiments.intervals, radin.experiments.zoos and what they may import.
"""
