"""What a measure says of codes beside factors: numbers by name, what they were taken from, and what is doubtful about them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from workbench.measures.measured import Measured

__all__ = ["Scores"]


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Mapping[str, Measured]):
    """One or more numbers by name, all finite; as a number, it is the first of them.

    Attributes:
        numbers: The numbers.
        n, d: Rows and codes that they were taken of.
        convention: Which of the definitions in use this is.
        warnings: What makes the numbers doubtful, a sentence each; empty where nothing does.
        matrix: What they were taken from, codes by factors (importances, mutual information ...), where there is such.
        ends: Low and high end of the interval of each number; see :func:`~workbench.measures.resampling.bootstrap`.

    Raises:
        ValueError: If a number is not finite, which is a defect of the measure.

    Example:
        >>> got = Scores({"mig": 0.5}, n=100, d=4, convention="20 bins", warnings=("one factor",))
        >>> got
        mig 0.5 (N=100, D=4, 20 bins)
          one factor
        >>> float(got), got["mig"].n
        (0.5, 100)
    """

    numbers: Mapping[str, float]
    n: int
    d: int
    convention: str
    warnings: tuple[str, ...] = ()
    matrix: pd.DataFrame | None = None
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [name for name, value in self.numbers.items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(f"scores are finite numbers, but {', '.join(wrong)} is not: say a number and a warning instead.")

    def __getitem__(self, name: str) -> Measured:
        low, high = self.ends.get(name, (None, None))
        facts = {"n": self.n, "d": self.d, "convention": self.convention}
        return Measured(self.numbers[name], name=name, low=low, high=high, **facts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __float__(self) -> float:
        return float(next(iter(self.numbers.values())))

    def within(self, ends: Mapping[str, tuple[float, float]]) -> "Scores":
        """Returns the same numbers with an interval each."""
        return replace(self, ends=dict(ends))

    def table(self) -> pd.DataFrame:
        """Returns a row a number: ``measure``, ``value``, ``n``, ``d``, ``convention``, ``warnings``, ``low`` and ``high``."""
        numbers = pd.DataFrame({"measure": list(self), "value": [float(v) for v in self.values()]})
        numbers = numbers.assign(n=self.n, d=self.d, convention=self.convention, warnings="; ".join(self.warnings))
        if self.ends:
            numbers["low"], numbers["high"] = zip(*(self.ends[name] for name in self), strict=True)
        return numbers

    def __repr__(self) -> str:
        def said(number: Measured) -> str:
            between = "" if number.low is None else f" [{number.low:.4g}, {number.high:.4g}]"
            return f"{number.name} {float(number):.4g}{between}"

        first = f"{', '.join(said(self[name]) for name in self)} (N={self.n}, D={self.d}, {self.convention})"
        return "\n  ".join([first, *self.warnings])
