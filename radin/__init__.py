"""RADIN: rank candidate soups by their ensembles, average and evaluate only the best few.

`import radin` costs torch and nothing more: what needs a heavier library loads it when it is called.
"""

from radin.bank import LogitBank
from radin.bench import SoupBench
from radin.candidates import dirichlet, exhaustive, greedy_path, monte_carlo
from radin.craft import RECIPES, Soup, Trial, craft
from radin.data import load_split
from radin.errors import RadinError
from radin.evaluate import evaluator, soup_logits
from radin.finetune import digits_zoo
from radin.predict import predict
from radin.rank import Ranking, fast_estimate, rank
from radin.soup import average, interpolate, save_soup
from radin.synthetic import synthetic_bank
from radin.trust import trust
from radin.zoo import Zoo

__version__ = "0.1.0"

__all__ = [
    "RECIPES",
    "LogitBank",
    "RadinError",
    "Ranking",
    "Soup",
    "SoupBench",
    "Trial",
    "Zoo",
    "average",
    "craft",
    "digits_zoo",
    "dirichlet",
    "evaluator",
    "exhaustive",
    "fast_estimate",
    "greedy_path",
    "interpolate",
    "load_split",
    "monte_carlo",
    "predict",
    "rank",
    "save_soup",
    "soup_logits",
    "synthetic_bank",
    "trust",
]
