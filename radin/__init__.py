"""RADIN: rank candidate soups by their ensembles, average and evaluate only the best few.

`import radin` costs nothing, and the first use of a name torch and nothing more: what needs a
heavier library loads it when it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; `_HOMES` says the same when the module runs
    from radin.checkpoints.adapter_zoo import open_adapters
    from radin.checkpoints.zoo import Zoo
    from radin.data.load import load_split
    from radin.errors import RadinError
    from radin.experiments.bench.bench import SoupBench
    from radin.experiments.bench.comparison import compare
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
    "compare",
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

_HOMES = {
    "RECIPES": "radin.recipes.selection",
    "AskTell": "radin.recipes.ask_tell",
    "Families": "radin.recipes.families",
    "LogitBank": "radin.ranking.bank",
    "Metric": "radin.ranking.metrics",
    "RadinError": "radin.errors",
    "Ranking": "radin.ranking.rank",
    "Soup": "radin.recipes.craft",
    "SoupBench": "radin.experiments.bench.bench",
    "Trial": "radin.recipes.ledger",
    "Zoo": "radin.checkpoints.zoo",
    "average": "radin.soup.average",
    "compare": "radin.experiments.bench.comparison",
    "convex": "radin.ranking.convex",
    "craft": "radin.recipes.craft",
    "digits_zoo": "radin.experiments.zoos.digits",
    "dirichlet": "radin.ranking.candidates",
    "evaluator": "radin.inference.evaluate",
    "exhaustive": "radin.ranking.candidates",
    "families": "radin.recipes.families",
    "fast_estimate": "radin.ranking.rank",
    "greedy_path": "radin.ranking.search",
    "interpolate": "radin.soup.average",
    "load_collection": "radin.experiments.collection.table",
    "load_split": "radin.data.load",
    "monte_carlo": "radin.ranking.candidates",
    "open_adapters": "radin.checkpoints.adapter_zoo",
    "predict": "radin.inference.predict",
    "rank": "radin.ranking.rank",
    "save_adapter": "radin.soup.adapters",
    "save_soup": "radin.soup.save",
    "soup_logits": "radin.inference.evaluate",
    "synthetic_bank": "radin.experiments.synthetic",
    "trust": "radin.recipes.trust",
}
_ROOMS = (
    "checkpoints",
    "cli",
    "data",
    "errors",
    "experiments",
    "files",
    "inference",
    "ranking",
    "recipes",
    "soup",
    "theory",
)


def __getattr__(name: str) -> Any:
    """Import all public names when the first of them, or a room, is asked for."""
    if name not in _HOMES and name not in (*_ROOMS, "images"):  # radin.images is a name of 0.1
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for public, home in _HOMES.items():
        globals()[public] = getattr(import_module(home), public)
    return globals()[name] if name in _HOMES else import_module(f"radin.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
