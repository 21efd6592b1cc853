"""Which checkpoints belong together: families that share an architecture and a start."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radin.checkpoints.adapters import is_adapter_file
from radin.checkpoints.checkpoint import Checkpoint, open_checkpoint
from radin.checkpoints.formats import is_parameter
from radin.checkpoints.inspection import MAX_UNRELATED_COSINE, inspect_all
from radin.checkpoints.paths import find_checkpoints
from radin.checkpoints.rounded_copies import rounded_copies
from radin.checkpoints.zoo import Zoo
from radin.errors import CheckpointError, ParameterError, counted, list_names
from radin.recipes.weight_checks import MIN_COSINE
from radin.theory.weight_geometry import cosines, distances, state_products

if TYPE_CHECKING:
    import numpy as np

CUT = 1 - MAX_UNRELATED_COSINE  # of the tree: families farther apart than this share no start
OTHER_ARCHITECTURE = 2.0  # the distance 1 - cosine of files that cannot be compared, its maximum
# A look at an open zoo reads so much of every file. The cosine of a sample of this size is off by
# less than 0.01.
SAMPLE_ELEMENTS = 2**14  # of a matrix
MAX_SAMPLED_MATRICES = 16
_NO_ADAPTERS = (
    "a LoRA adapter, and families are found among whole checkpoints. Adapters belong together "
    "where they were trained on one base: base_model_name_or_path in adapter_config.json names it."
)


@dataclass(frozen=True)
class Families:
    """What `radin.families` returns; print it for a summary.

    Attributes:
        paths: the N files that could be read.
        families: lists of indices, the largest family first. A file that shares its start with no
            other is a family of one.
        architectures: for each file a number; files of one number have the same tensors, and 0 is
            the most common architecture.
        cosines: (N, N) double, the upper median over the matrices of the network; NaN between two
            architectures.
        distances: (N, N) double, between all parameters; NaN between two architectures.
        duplicates: lists of indices of files that hold the same weights.
        rounded: of each file that holds the weights of another one in another precision its index,
            and that of the other.
        unreadable: for each file that could not be read or holds NaN, why.
        differences: for each architecture but the first, how it differs from the first.
        notes: a line for each thing in the folder that is no checkpoint to compare.
        tree: SciPy's linkage matrix of the distances 1 - cosine; None for one file.

    >>> import radin
    >>> from radin.experiments.bench.shipped import shipped_root
    >>> found = radin.families(f"{shipped_root()}/cifar10-wild/i*.safetensors", progress=False)
    >>> [len(members) for members in found.families]  # the initialisation is one of them
    [8]
    >>> found.names[-1]
    'init.safetensors'
    """

    paths: list[Path]
    families: list[list[int]]
    architectures: list[int]
    cosines: Tensor
    distances: Tensor
    duplicates: list[list[int]]
    rounded: dict[int, int]
    unreadable: dict[Path, str]
    differences: list[str]
    notes: list[str]
    tree: np.ndarray | None

    @property
    def names(self) -> list[str]:
        """The N files' names, with the folder where two files have one name."""
        names = [path.name for path in self.paths]
        return [
            name if names.count(name) == 1 else f"{path.parent.name}/{name}"
            for path, name in zip(self.paths, names, strict=True)
        ]

    @property
    def largest(self) -> list[Path]:
        """The files of the largest family, each content once: what to average."""
        return self.distinct(0)

    def distinct(self, family: int) -> list[Path]:
        """The files of a family without those that repeat another one's weights."""
        repeats = {*_repeats(self.duplicates), *self.rounded}
        return [self.paths[k] for k in self.families[family] if k not in repeats]

    def choose(self, family: str) -> list[Path]:
        """The files that `--family` means: "largest", or the number of a family, from 1.

        Raises:
            ParameterError: there is no such family.
        """
        number = 1 if family == "largest" else int(family) if family.isdecimal() else 0
        if not 1 <= number <= len(self.families):
            raise ParameterError(
                f'The family is "largest" or a number from 1 to {len(self.families)}, not '
                f"{family!r}; `radin families` lists them."
            )
        return self.distinct(number - 1)

    def __str__(self) -> str:
        num_files = len(self.paths) + len(self.unreadable)
        names = self.names
        lines = [f"{counted(len(self.families), 'family')} in {counted(num_files, 'file')}"]
        for number, members in enumerate(self.families, start=1):
            listed = list_names(names[k] for k in members)
            if len(members) > 1:
                lowest = self.cosines[members][:, members].min().item()
                far = ", they have moved far apart" if lowest < MIN_COSINE else ""
                listed = f"{listed} (smallest cosine {lowest:.2f}{far})"
            elif len(self.families) > 1:
                listed = f"{listed} (shares its start with no other file)"
            lines.append(f"family {number}, {counted(len(members), 'file')}: {listed}")
        for group in self.duplicates:
            first, *others = [names[k] for k in group]
            verb = "hold" if len(others) > 1 else "holds"
            lines.append(f"duplicates: {list_names(others)} {verb} the same weights as {first}")
        lines += [
            f"another precision: {names[k]} holds the weights of {names[of]}, rounded"
            for k, of in sorted(self.rounded.items())
        ]
        lines += self.differences
        lines += [f"not read: {reason}" for reason in self.unreadable.values()]
        return "\n".join([*lines, *self.notes])


def families(paths: str | Path | Iterable[str | Path], *, progress: bool = True) -> Families:
    """Find which checkpoints can be averaged: those with one architecture and one start.

    Fine-tunes of one checkpoint have large cosines between their weights, networks with different
    starts have cosines near 0. The files are read a few elements of all of them at a time, so that
    memory does not grow with their number, and clustered by average linkage.

    Args:
        paths: checkpoint files, one folder of them, or a glob, as `Zoo.open` takes them. Files of
            different architectures are compared among their own.
        progress: show a bar.

    Raises:
        CheckpointError: there is no file, or none that can be read.

    >>> import radin
    >>> from radin.experiments.bench.shipped import shipped_root
    >>> names = ["cifar10/init", "cifar10/ingredient_00", "pretrained"]
    >>> files = [shipped_root() / f"{name}.safetensors" for name in names]
    >>> print(radin.families(files, progress=False))  # doctest: +ELLIPSIS
    2 families in 3 files
    family 1, 2 files: init.safetensors, ingredient_00.safetensors (smallest cosine 0.97)
    family 2, 1 file: pretrained.safetensors (shares its start with no other file)
    another architecture: pretrained.safetensors differs from init.safetensors in 2 tensors: ...
    """
    files, notes = find_checkpoints(paths)
    opened, unreadable = _open_all(files)
    groups, fingerprints = _only_finite(_by_architecture(opened), unreadable)
    order = [checkpoint.path for checkpoint in opened if checkpoint.path in fingerprints]
    similar, apart = _compare(groups, order, progress=progress)
    same = _duplicates([fingerprints[path] for path in order])
    for members in same:
        apart[torch.tensor(members)[:, None], torch.tensor(members)] = 0  # sums are rounded
    clusters, tree = cluster(similar)
    rounded = _rounded(groups, order, fingerprints)
    repeats = {*_repeats(same), *rounded}

    def rank(members: list[int]) -> tuple[int, list[int]]:
        return -len(set(members) - repeats), members

    number_of = {each.path: number for number, group in enumerate(groups) for each in group}
    return Families(
        paths=order,
        families=sorted(clusters, key=rank),
        architectures=[number_of[path] for path in order],
        cosines=similar,
        distances=apart,
        duplicates=same,
        rounded=rounded,
        unreadable=unreadable,
        differences=[_difference(group[0], groups[0][0]) for group in groups[1:]],
        notes=notes,
        tree=tree,
    )


def count_architectures(paths: str | Path | Iterable[str | Path]) -> int:
    """How many architectures the files are of that can be opened; no weights are read."""
    opened, _ = _open_all(find_checkpoints(paths).paths)
    return len(_by_architecture(opened))


def families_of_zoo(zoo: Zoo) -> list[list[int]]:
    """The families of an open zoo by a sample of some matrices, the largest first.

    It reads a small part of each file: enough to tell fine-tunes of one start from others.
    """
    keys = _matrices(zoo[0], zoo.parameter_keys())
    if not keys:
        return [list(range(len(zoo)))]
    keys = keys[:: math.ceil(len(keys) / MAX_SAMPLED_MATRICES)]  # evenly spread over the layers
    states = [zoo[k] for k in range(len(zoo))]
    products = state_products(states, keys, max_elements=SAMPLE_ELEMENTS, progress=False)
    clusters, _ = cluster(median_cosines(zoo[0], products))
    return sorted(clusters, key=lambda members: (-len(members), members))


def median_cosines(state: Mapping[str, Tensor], products: Mapping[str, Tensor]) -> Tensor:
    """(N, N) cosines of networks: the upper median over their matrices and kernels.

    Biases and the scales of norms are alike in any two networks, and one new head of many layers
    does not change the median.

    Args:
        state: of one of them, for the shapes.
        products: from `state_products`.
    """
    found = [cosines(products[key]) for key in _matrices(state, products)]
    return torch.stack(found).sort(0).values[len(found) // 2]


def cluster(similar: Tensor) -> tuple[list[list[int]], np.ndarray | None]:
    """Families by average linkage of the distances 1 - cosine, and SciPy's linkage matrix.

    Args:
        similar: (N, N) cosines; NaN where two files cannot be compared.
    """
    if len(similar) == 1:
        return [[0]], None
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    far = (1 - similar).nan_to_num(OTHER_ARCHITECTURE).clamp_min(0).fill_diagonal_(0)
    tree = linkage(squareform(far.numpy(), checks=False), "average")
    labels = fcluster(tree, CUT, "distance").tolist()
    members: dict[int, list[int]] = {}
    for k, label in enumerate(labels):
        members.setdefault(label, []).append(k)
    return list(members.values()), tree


def _open_all(files: Sequence[Path]) -> tuple[list[Checkpoint], dict[Path, str]]:
    """The checkpoints that can be opened, and why the others cannot."""
    opened = []
    unreadable = {}
    for path in dict.fromkeys(files):
        if is_adapter_file(path):
            unreadable[path] = f"{path}: {_NO_ADAPTERS}"
            continue
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError as error:
            unreadable[path] = str(error)
            continue
        if _parameters(checkpoint):
            opened.append(checkpoint)
        else:
            unreadable[path] = f"{path}: holds no floating-point weights to compare."
    if not opened:
        raise CheckpointError(next(iter(unreadable.values())))
    return opened, unreadable


def _by_architecture(checkpoints: Sequence[Checkpoint]) -> list[list[Checkpoint]]:
    """Checkpoints with the same tensors, under the keys that they have in common.

    A prefix of the keys, such as "module.", makes no difference.
    """
    groups: list[list[Checkpoint]] = []
    for checkpoint in checkpoints:
        for group in groups:
            if (fitted := _fit(checkpoint, group[0])) is not None:
                group.append(fitted)
                break
            if _fit(group[0], checkpoint) is not None:  # the others have the prefix
                group[:] = [*filter(None, (_fit(each, checkpoint) for each in group)), checkpoint]
                break
        else:
            groups.append([checkpoint])
    return groups


def _fit(checkpoint: Checkpoint, reference: Checkpoint) -> Checkpoint | None:
    """The checkpoint under the keys of the reference, or None where it has other tensors."""
    try:
        fitted = checkpoint.fit(reference)
    except CheckpointError:
        return None
    return fitted if _shapes(fitted) == _shapes(reference) else None


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[bool, tuple[int, ...]]]:
    return {key: (each.is_floating_point(), tuple(each.shape)) for key, each in state.items()}


def _parameters(state: Mapping[str, Tensor]) -> list[str]:
    return [key for key, tensor in state.items() if is_parameter(key, tensor)]


def _matrices(state: Mapping[str, Tensor], keys: Iterable[str]) -> list[str]:
    """The keys of matrices and kernels, or all keys where there are none."""
    keys = list(keys)
    return [key for key in keys if state[key].ndim > 1] or keys


def _only_finite(
    groups: Sequence[Sequence[Checkpoint]], unreadable: dict[Path, str]
) -> tuple[list[list[Checkpoint]], dict[Path, str]]:
    """The groups without files that hold NaN, and the hash of each file that is left.

    Those with NaN are added to the unreadable ones.
    """
    fingerprints: dict[Path, str] = {}
    kept = []
    for group in groups:
        for checkpoint in group:
            try:
                (inspection,) = inspect_all([checkpoint], unused=(), init=None, progress=False)
            except CheckpointError as error:
                unreadable[checkpoint.path] = str(error)
            else:
                fingerprints[checkpoint.path] = inspection.fingerprint
        kept.append([checkpoint for checkpoint in group if checkpoint.path in fingerprints])
    if not fingerprints:
        raise CheckpointError(next(iter(unreadable.values())))
    # The most common architecture first.
    return sorted(filter(None, kept), key=len, reverse=True), fingerprints


def _compare(
    groups: Sequence[Sequence[Checkpoint]], order: Sequence[Path], *, progress: bool
) -> tuple[Tensor, Tensor]:
    """Cosines and distances (N, N) of files in some order; NaN between two groups."""
    index = {path: k for k, path in enumerate(order)}
    similar = torch.full((len(order), len(order)), math.nan, dtype=torch.float64)
    apart = similar.clone()
    for group in groups:
        products = state_products(group, _parameters(group[0]), progress=progress)
        members = torch.tensor([index[checkpoint.path] for checkpoint in group])
        cells = members[:, None], members
        similar[cells] = median_cosines(group[0], products)
        apart[cells] = distances(torch.stack(list(products.values())).sum(0))
    return similar, apart


def _duplicates(fingerprints: Sequence[str]) -> list[list[int]]:
    """Lists of indices with the same hash, of two and more."""
    same: dict[str, list[int]] = {}
    for k, fingerprint in enumerate(fingerprints):
        same.setdefault(fingerprint, []).append(k)
    return [members for members in same.values() if len(members) > 1]


def _repeats(duplicates: Sequence[Sequence[int]]) -> set[int]:
    """All files of some groups but the first of each."""
    return {k for members in duplicates for k in members[1:]}


def _rounded(
    groups: Sequence[Sequence[Checkpoint]], order: Sequence[Path], fingerprints: Mapping[Path, str]
) -> dict[int, int]:
    """Of each file that is another one in another precision its index, and the other's."""
    index = {path: k for k, path in enumerate(order)}
    found = {}
    for group in groups:
        copies = rounded_copies(group, [fingerprints[each.path] for each in group])
        for copy, original in copies.items():
            found[index[group[copy].path]] = index[group[original].path]
    return found


def _difference(checkpoint: Checkpoint, first: Checkpoint) -> str:
    """How an architecture differs from the first one, in a sentence."""
    own = _shapes(checkpoint)
    others = _shapes(first)
    differing = [key for key in dict.fromkeys([*own, *others]) if own.get(key) != others.get(key)]
    return (
        f"another architecture: {checkpoint.path.name} differs from {first.path.name} in "
        f"{counted(len(differing), 'tensor')}: {list_names(differing, most=3)}"
    )
