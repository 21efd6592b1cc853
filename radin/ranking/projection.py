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
    """Reads class k of K from the largest of the logits `groups[k]`. Other logits are ignored.

    It is applied after averaging, to the logits of the ensemble or of the soup: if a class has
    several logits, the maximum of averages is not the average of maxima. For the same reason a
    logit bank keeps all C logits.

    Args:
        groups: (K,) for each class the indices of its logits, 0 to C - 1. No index is used twice.
        num_logits: C.

    Attributes:
        groups, num_logits: as given.
        is_selection: whether every class has exactly one logit. Only then averaging and
            projection can change their order.

    Raises:
        ParameterError: a class without a logit, or an index out of range or used twice.
    """

    def __init__(self, groups: Sequence[Sequence[int]], num_logits: int) -> None:
        self.num_logits = check_integer("num_logits", num_logits, minimum=1)
        self.groups = tuple(
            tuple(check_integer("a logit's number", index, minimum=0) for index in group)
            for group in groups
        )
        self.is_selection = all(len(group) == 1 for group in self.groups)
        self._check_groups()

    def _check_groups(self) -> None:
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
        uses = Counter(index for group in self.groups for index in group)
        repeated = sorted(index for index, count in uses.items() if count > 1)
        if repeated:
            raise ParameterError(
                f"The projection uses logit {repeated[0]} more than once; a logit belongs to one "
                "class."
            )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.groups)

    @property
    def fingerprint(self) -> str:
        """Hex hash of groups and num_logits."""
        return hash_text(
            str(self.num_logits), *(",".join(map(str, group)) for group in self.groups)
        )

    @cached_property
    def _index(self) -> Tensor:
        """Indices of the logits: (K, L), where L is the size of the largest group."""
        size = max(map(len, self.groups))
        # A smaller group repeats its first index, which does not change its maximum.
        return torch.tensor([group + group[:1] * (size - len(group)) for group in self.groups])

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (..., C) as (..., K), in their own dtype and on their own device.

        Raises:
            ParameterError: there are not C of them.
        """
        if logits.ndim == 0 or logits.shape[-1] != self.num_logits:
            found = logits.shape[-1] if logits.ndim else "none"
            raise ParameterError(
                f"The projection takes {self.num_logits} logits, not {found}; choose the model's "
                "classes."
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
