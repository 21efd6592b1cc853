"""A report of checks: what was measured, its limits, and what to do outside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from radin.errors import ParameterError


@dataclass(frozen=True)
class Check:
    """One thing that was measured.

    Attributes:
        name: what it is.
        value: what was found.
        minimum, maximum: its limits; infinite where it is reported for information only.
        advice: what to do outside the limits.
    """

    name: str
    value: float
    minimum: float = -math.inf
    maximum: float = math.inf
    advice: str = ""

    @property
    def passed(self) -> bool:
        return self.minimum <= self.value <= self.maximum

    @property
    def limited(self) -> bool:
        """Whether it has a limit; else it is reported for information."""
        return self.minimum > -math.inf or self.maximum < math.inf

    @property
    def line(self) -> str:
        """The check in one line of a report."""
        limits = [f"at least {self.minimum:.2f}"] * (self.minimum > -math.inf)
        limits += [f"at most {self.maximum:.2f}"] * (self.maximum < math.inf)
        mark = ("ok" if self.passed else "NO") if self.limited else "--"
        return f"{mark}  {self.name}: {self.value:.2f}" + (
            f" ({', '.join(limits)})" if limits else ""
        )

    def __str__(self) -> str:
        return self.line if self.passed else f"{self.line}\n    {self.advice}"


@dataclass(frozen=True)
class Trust:
    """What `radin.trust` returns; print it for a report.

    Attributes:
        checks: everything that was measured.
    """

    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """ "yes" when every check was passed, else "no"."""
        return "no" if self.failed else "yes"

    @property
    def failed(self) -> list[Check]:
        """The checks that were not passed; each has advice."""
        return [check for check in self.checks if not check.passed]

    @property
    def advice(self) -> list[str]:
        """What to do, in sentences; empty when the verdict is yes."""
        return list(dict.fromkeys(check.advice for check in self.failed))

    def __getitem__(self, name: str) -> float:
        """The value of a check by its name; ParameterError for one that was not made."""
        values = {check.name: check.value for check in self.checks}
        if name not in values:
            raise ParameterError(
                f"No check is called {name!r}; there are {', '.join(map(repr, values))}."
            )
        return values[name]

    def __str__(self) -> str:
        lines, given = [f"trust in the fast estimate: {self.verdict}"], set()
        for check in self.checks:
            lines.append(check.line)
            if not check.passed and check.advice not in given:
                lines.append(f"    {check.advice}")
                given.add(check.advice)
        return "\n".join(lines)
