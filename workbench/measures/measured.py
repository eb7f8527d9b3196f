"""A number that says how it was taken: a float which carries N, D, its convention and, on request, an interval."""

from collections.abc import Callable
from typing import Literal, TypeVar

__all__ = ["Measured"]

Change = Literal["scale", "rotation", "order", "shift", "duplication", "lengths", "columns", "signs", "relabelling"]
F = TypeVar("F", bound=Callable)


class Measured(float):
    """A float everywhere a float is wanted, with the facts without which it means nothing.

    Attributes:
        name: Of the measure.
        n, d: Rows and columns of the matrix it was taken of. Spectral measures grow with both; compare at equal n and d.
        convention: Which of the definitions in use this is.
        low, high: Ends of its interval, or None; see :func:`~workbench.measures.resampling.bootstrap`.

    Example:
        >>> Measured(54.93, name="RankMe", n=2048, d=512, convention="singular values, uncentred, eps=1e-07")
        RankMe 54.93 (N=2048, D=512, singular values, uncentred, eps=1e-07)
    """

    name: str
    n: int
    d: int
    convention: str
    low: float | None
    high: float | None

    def __new__(
        cls,
        value: float,
        *,
        name: str = "",
        n: int = 0,
        d: int = 0,
        convention: str = "",
        low: float | None = None,
        high: float | None = None,
    ) -> "Measured":
        self = super().__new__(cls, value)
        self.name, self.n, self.d, self.convention, self.low, self.high = name, n, d, convention, low, high
        return self

    def within(self, low: float, high: float) -> "Measured":
        """Returns the same number with an interval."""
        return Measured(self, **(vars(self) | {"low": low, "high": high}))

    def __repr__(self) -> str:
        between = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.name} {float(self):.4g}{between} (N={self.n}, D={self.d}, {self.convention})"


def invariant_to(*changes: Change) -> Callable[[F], F]:
    """Declares which changes of the matrix leave a measure as it is; the contract test holds it to that, and to no more.

    ``scale``: multiplication by a positive number. ``rotation``: an orthogonal map of the columns. ``order``: of the rows.
    ``shift``: the same vector added to every row. ``duplication``: every row twice. ``lengths``: multiplication of each row
    by a positive number of its own. ``columns``: multiplication of each column by a positive number of its own. Of measures
    beside factors also ``signs``: some columns turned around, and ``relabelling``: the values of every factor by other names.
    """

    def declare(measure: F) -> F:
        measure.invariances = frozenset(changes)
        return measure

    return declare
