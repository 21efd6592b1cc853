"""The full experiment on ImageNet: published ingredients, four recipes, six test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from radin.checkpoints.architectures import builder
from radin.checkpoints.zoo import Zoo
from radin.data.imagenet import PARTS, TEST_SETS, check_layouts
from radin.data.load import load_split
from radin.data.splits import CLIP, Normalised
from radin.errors import check_integer, check_seed
from radin.experiments.intervals import Interval, paired_interval
from radin.experiments.model_soups.ingredients import fetch_ingredients
from radin.experiments.model_soups.results import MODEL_SOUPS
from radin.files import expand_path
from radin.inference.evaluate import Evaluator, soup_logits
from radin.inference.predict import predict
from radin.ranking.bank import LogitBank
from radin.ranking.rank import check_prior
from radin.recipes.craft import Soup, craft

if TYPE_CHECKING:
    import pandas as pd

ARCHITECTURE = "open_clip:ViT-B-32-quickgelu"  # the published ingredients' network
NUM_CLASSES = 1000
COMPARED = ("radin", "greedy", "uniform", "best_single")
BANK_DTYPE = torch.float16  # of the logits that are kept; networks run in their own


def network_builder() -> Callable[[], nn.Module]:
    """A function that builds the ingredients' network of 88.4 million parameters."""
    return builder(ARCHITECTURE, NUM_CLASSES)


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """What one run of the full experiment gave.

    Attributes:
        bank: the N ingredients' logits on the validation images: (N, n, 1000).
        soups: recipe to the soup that it returned.
        right: test set to a recipe, or "ensemble" for the ensemble of all, to (n,) boolean: on
            which images it is right.
        labels: test set to (n,) classes of its images.
        notes: test set to how its images differ from the published ones; empty where they do not.
    """

    bank: LogitBank
    soups: Mapping[str, Soup]
    right: Mapping[str, Mapping[str, Tensor]]
    labels: Mapping[str, Tensor]
    notes: Mapping[str, str]

    def __repr__(self) -> str:
        images = sum(map(len, self.labels.values()))
        return (
            f"Experiment({self.bank.num_models} ingredients, {images:,} images of "
            f"{len(self.right)} test sets)"
        )

    @property
    def shifted(self) -> list[str]:
        """The shifted test sets."""
        return [part for part in self.right if part != "test"]

    def together(self, recipe: str, parts: Sequence[str]) -> Tensor:
        """Whether a recipe is right on each image of several test sets, one after the other: (n,).

        Args:
            recipe: a key of `soups`, or "ensemble".
            parts: keys of `right`.
        """
        return torch.cat([self.right[part][recipe] for part in parts])

    def table(self) -> pd.DataFrame:
        """Accuracy in percent: a row for each test set and for the mean of the shifted ones."""
        import pandas as pd

        table = pd.DataFrame.from_dict(
            {
                PARTS[part].title: {
                    recipe.replace("_", " "): 100 * right.double().mean().item()
                    for recipe, right in found.items()
                }
                for part, found in self.right.items()
            },
            orient="index",
        )
        table.loc["shifts"] = table.iloc[1:].mean()
        return table

    def contrasts(self) -> dict[str, Interval]:
        """RADIN less the others: title to a paired 95% interval over images, in points.

        Less greedy on each test set; less each of the others on all shifted test sets together,
        where each image counts once.
        """
        rows = {
            f"{PARTS[part].title}: RADIN − greedy": paired_interval(found["radin"], found["greedy"])
            for part, found in self.right.items()
        }
        radin = self.together("radin", self.shifted)
        for other in ("greedy", "uniform", "best_single", "ensemble"):
            title = f"shifted sets: RADIN − {other.replace('_', ' ')}"
            rows[title] = paired_interval(radin, self.together(other, self.shifted))
        return rows


def run_experiment(
    root: str | Path,
    *,
    ids: str | Iterable[int] = "all",
    budget: int = 4,
    prior: float = 1.0,
    seed: int = 0,
    num_images: int | None = None,
    checkpoints: Sequence[str | Path] | None = None,
    build: Callable[[], nn.Module] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Experiment:
    """Run the paper's main experiment: choose soups on ImageNet2p, report on six test sets.

    All folders are checked first. Missing ingredients are downloaded to `model-soups` below the
    root. Logits are kept under `RADIN_CACHE`, so a killed run continues at the image where it
    stopped.

    Args:
        root: the folder with `imagenet/` and the shifted test sets.
        ids: which of the 72 ingredients, as `fetch_ingredients` takes them.
        budget: evaluations that RADIN and greedy may spend.
        prior: lambda of RADIN, in percentage points.
        seed: of the candidates.
        num_images: of each set, evenly spread; all when not given.
        checkpoints: other ingredients of this network, in place of the published ones.
        build: an empty network of theirs; `network_builder()` when not given.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress bars.

    Raises:
        DataError: a folder is missing or laid out in another way, or an ingredient cannot be
            downloaded.
        ParameterError: an impossible number.

    Source: Wortsman et al. 2022, section 3, for the ingredients and the test sets.
    """
    budget = check_integer("budget", budget, minimum=1)
    check_prior(prior)
    check_seed(seed)
    base = expand_path(root)
    check_layouts(TEST_SETS, base)
    if checkpoints is None:
        checkpoints = fetch_ingredients(ids, base / MODEL_SOUPS, progress=progress)
    zoo = Zoo.open(
        list(checkpoints), build=build or network_builder(), unused="skip", progress=progress
    )
    sets = {part: _load_images(part, base, num_images) for part in TEST_SETS}
    options: dict[str, Any] = {"device": device, "dtype": BANK_DTYPE, "progress": progress}
    bank = predict(zoo, sets["val"], **options)
    evaluate = Evaluator(zoo, sets["val"], device=device, progress=progress)
    soups = {
        recipe: craft(bank, evaluate, budget, recipe, prior=prior, seed=seed) for recipe in COMPARED
    }
    tested = {part: split for part, split in sets.items() if part != "val"}
    return Experiment(
        bank=bank,
        soups=soups,
        right={part: _report(zoo, split, soups, options) for part, split in tested.items()},
        labels={part: split.labels for part, split in tested.items()},
        notes={part: getattr(split.split, "note", "") for part, split in sets.items()},
    )


def _load_images(part: str, root: Path, num_images: int | None) -> Normalised:
    """One set of images in the colours that CLIP was trained with."""
    split = load_split("imagenet", part, root)
    return Normalised(split if num_images is None else split.take(num_images), *CLIP)


def _report(
    zoo: Zoo, split: Normalised, soups: Mapping[str, Soup], options: dict[str, Any]
) -> dict[str, Tensor]:
    """Which images each soup, and the ensemble of all, gets right.

    Logits are averaged first and projected to the classes of the set afterwards: a maximum is not
    linear.
    """
    bank = predict(zoo, split, **options)
    found: dict[str, Tensor] = {}
    by_members: dict[tuple[int, ...], Tensor] = {}
    for recipe, soup in soups.items():
        members = tuple(soup.members)
        if members not in by_members:
            by_members[members] = _right_answers(zoo, soup, split, bank, options["device"])
        found[recipe] = by_members[members]
    mean = sum(logits.float() for logits in bank.logits) / len(zoo)
    found["ensemble"] = bank.projected(mean).argmax(-1) == bank.labels
    return found


def _right_answers(zoo: Zoo, soup: Soup, split: Normalised, bank: LogitBank, device: str) -> Tensor:
    if len(soup.members) == 1:  # its logits are in the bank
        logits, labels = bank.projected(bank.logits[soup.members[0]]), bank.labels
    else:
        logits, labels = soup_logits(zoo, soup.weights, split, device=device)
    return logits.argmax(-1) == labels
