"""Words that the parser knows before anything heavy is imported; tests hold them to their homes."""

from __future__ import annotations

FOLDER_PREFIX = "imagenet-folder:"
COLOUR_NAMES = ("clip", "imagenet")
DATA_SET_NAMES = ("cifar10", "tiny-imagenet", "pacs", "domainnet")
MODEL_SOUPS = "model-soups"
RECIPE_NAMES = ("radin", "safe", "greedy", "top_k", "uniform", "best_single", "random")
IMAGE_RECIPE_NAMES = ("race",)  # those that need a soup's answers to single images
LIVE_RECIPE_NAMES = ("learned",)  # those that need networks
GRANULARITIES = ("ingredient", "block", "tensor")  # of a learned soup
STARTS = ("uniform", "convex")  # of a learned soup
DEFAULT_BUDGET = 4
ASK_OPTIONS = ("budget", "recipe", "metric", "prior", "seed")


def default_recipe(options_of_radin: bool) -> str:
    """The recipe where none is named: safe, or radin where one of its options is given.

    Over the zoos of the book's chapter on budgets safe is never behind radin.
    """
    return "radin" if options_of_radin else "safe"
