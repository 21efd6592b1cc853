"""From a network's logits to the classes of a test set that holds only some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer
from radin.files import hash_text


class Projection:
    """Reads class k of K from the largest of the logits `groups[k]`; the other logits are left out.

    It belongs after averaging, on the logits of the ensemble or of the soup. Where a class has more than one logit, a
    maximum of averages is not the average of maxima, so ingredients projected one by one would make another ensemble.
    For the same reason a logit bank keeps all C logits.

    Args:
        groups: (K,) for each class the numbers of its logits, 0 to C - 1; none of them twice.
        num_logits: C.

    Attributes:
        groups, num_logits: as given.
        is_selection: whether every class has exactly one logit; only then does it commute with averaging.

    Raises ParameterError for a class without a logit, a number out of range or one that is used twice.
    """

    def __init__(self, groups: Sequence[Sequence[int]], num_logits: int) -> None:
        self.num_logits = check_integer("num_logits", num_logits, minimum=1)
        self.groups = tuple(
            tuple(check_integer("a logit's number", each, minimum=0) for each in group)
            for group in groups
        )
        self.is_selection = all(len(group) == 1 for group in self.groups)
        if not self.groups:
            raise ParameterError("A projection needs at least one class.")
        for k, group in enumerate(self.groups):
            if not group:
                raise ParameterError(
                    f"Class {k} of the projection has no logit; leave that class out."
                )
            if max(group) >= self.num_logits:
                raise ParameterError(
                    f"Class {k} of the projection asks for logit {max(group)} of {self.num_logits}."
                )
        used = Counter(each for group in self.groups for each in group)
        if twice := sorted(each for each, times in used.items() if times > 1):
            raise ParameterError(
                f"The projection uses logit {twice[0]} more than once; a logit belongs to one class."
            )

    @property
    def num_classes(self) -> int:
        return len(self.groups)

    @property
    def fingerprint(self) -> str:
        """Hex hash of what it does."""
        return hash_text(
            str(self.num_logits), *(",".join(map(str, group)) for group in self.groups)
        )

    @cached_property
    def _index(self) -> Tensor:
        """Numbers of the logits (K, L), L of the largest class; a smaller one repeats its first, to no effect."""
        most = max(map(len, self.groups))
        return torch.tensor([group + group[:1] * (most - len(group)) for group in self.groups])

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (..., C) as (..., K), in their own dtype and on their own device.

        Raises ParameterError when there are not C of them.
        """
        if logits.ndim == 0 or logits.shape[-1] != self.num_logits:
            found = logits.shape[-1] if logits.ndim else "none"
            raise ParameterError(
                f"The projection takes {self.num_logits} logits, not {found}; choose the model's classes."
            )
        index = self._index.to(logits.device)
        return logits[..., index[:, 0]] if self.is_selection else logits[..., index].amax(-1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Projection):
            return NotImplemented
        return (self.groups, self.num_logits) == (other.groups, other.num_logits)

    def __hash__(self) -> int:
        return hash((self.groups, self.num_logits))

    def __repr__(self) -> str:
        return f"Projection({self.num_logits} logits to {self.num_classes} classes)"
