"""RADIN: rank candidate soups by their ensembles, average and evaluate only the best few.

`import radin` costs torch and nothing more: what needs a heavier library loads it when it is
called.
"""

import sys

from radin.checkpoints.adapter_zoo import open_adapters
from radin.checkpoints.zoo import Zoo
from radin.data import images
from radin.data.load import load_split
from radin.errors import RadinError
from radin.experiments.bench.bench import SoupBench
from radin.experiments.collection.table import load_collection
from radin.experiments.synthetic import synthetic_bank
from radin.experiments.zoos.digits import digits_zoo
from radin.inference.evaluate import evaluator, soup_logits
from radin.inference.predict import predict
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import dirichlet, exhaustive, monte_carlo
from radin.ranking.convex import convex
from radin.ranking.metrics import Metric
from radin.ranking.rank import Ranking, fast_estimate, rank
from radin.ranking.search import greedy_path
from radin.recipes.ask_tell import AskTell
from radin.recipes.craft import Soup, craft
from radin.recipes.families import Families, families
from radin.recipes.ledger import Trial
from radin.recipes.selection import RECIPES
from radin.recipes.trust import trust
from radin.soup.adapters import save_adapter
from radin.soup.average import average, interpolate
from radin.soup.save import save_soup

sys.modules["radin.images"] = images  # its place in version 0.1, which scripts still import

__version__ = "0.2.0"

__all__ = [
    "RECIPES",
    "AskTell",
    "Families",
    "LogitBank",
    "Metric",
    "RadinError",
    "Ranking",
    "Soup",
    "SoupBench",
    "Trial",
    "Zoo",
    "average",
    "convex",
    "craft",
    "digits_zoo",
    "dirichlet",
    "evaluator",
    "exhaustive",
    "families",
    "fast_estimate",
    "greedy_path",
    "interpolate",
    "load_collection",
    "load_split",
    "monte_carlo",
    "open_adapters",
    "predict",
    "rank",
    "save_adapter",
    "save_soup",
    "soup_logits",
    "synthetic_bank",
    "trust",
]
