"""Two runs and the factors of the world, without a picture: what moves both columns, and which of the two tells factors apart."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import param

from workbench.factoring import judged_layers
from workbench.panels.correlated import Correlation, relatives
from workbench.panels.factor_side import WHERE, FactorSide, judging
from workbench.panels.layer_cuts import Subject

__all__ = ["FactorState"]

MATRICES = {"mutual information": "information", "importance (DCI)": "importance"}
ALIKE = 0.05  # a difference of DCI-D that is none
MAKE = (
    "There are no runs that differ in the correlation alone. Three lines make them: `grid = wb.sprites(None, positions=8, "
    "orientations=1, hues=1, background_hues=1)`, `images = wb.correlate(grid, 'x', 'y', sigma=0.1)`, and the same "
    "`wb.Trainer().fit(model, objective, images, wb.Plain(), out='runs/sigma-0.1')` for every sigma and for the grid itself."
)


class FactorState(param.Parameterized):
    """State and derivations: one column or two, and what is chosen for both: matrix, images, factor, correlation.

    Arguments:
        found: Subjects by name. The first two are shown; one alone has one column.
    """

    matrix = param.Selector(default="information", objects=MATRICES, doc="What each code holds of each factor, by what")
    where = param.Selector(default="uniform", objects=WHERE, doc="The images that codes are judged on")
    kind = param.Selector(default="", objects=[""], doc="Which factors go together in training")
    sigma = param.Selector(default="none", objects=["none"], doc="How strongly they do")

    def __init__(self, found: Mapping[str, Subject], **params: Any) -> None:
        super().__init__(**params)
        self.found = dict(found)
        names = list(self.found)
        self.sides = [FactorSide(self.found, name) for name in names[:2] or [""]]
        self._busy = False
        for side in self.sides:
            side.param.watch(self._follow, ["factor", "row"])
            side.param.watch(lambda event: self._offer(), "subject")
        self._offer()
        self._follow(None, self.sides[0])

    @property
    def moving(self) -> bool:
        """Whether a choice is being carried over to the other column, so that there is nothing to draw yet."""
        return self._busy or any(side.moving for side in self.sides)

    def refresh(self) -> None:
        """Takes up the tables of both sides as they are now."""
        for side in self.sides:
            side.refresh()
        self._follow(None, self.sides[0])

    # what moves both columns

    def _follow(self, event: Any, side: FactorSide | None = None) -> None:
        """Lets the other column look for the same factor, and at the same image, where it has them."""
        if self._busy or not (side := side or event.obj).judged():
            return
        self._busy = True
        try:
            for other in self.sides:
                if other is side or not other.judged():
                    continue
                if other.factor != side.factor:
                    other.look_for(side.factor)
                if other.row != side.row and _same_images(side, other):
                    other.row = side.row
        finally:
            self._busy = False

    @param.depends("where", watch=True)
    def _judge_elsewhere(self) -> None:
        for side in self.sides:
            side.where = self.where

    def correlations(self, side: FactorSide) -> dict[str, tuple[str, Correlation]]:
        """The runs like a side's under each correlation of the chosen kind, by how strong it is, the weakest first."""
        known = relatives(side.subject, self.found)
        fits = {name: how for name, how in known.items() if not how.pairs or how.kind == self.kind}
        order = sorted(fits.items(), key=lambda one: (one[1].sigma is not None, -(one[1].sigma or 0), one[0] != side.subject))
        chosen: dict[str, tuple[str, Correlation]] = {}
        for name, how in order:
            chosen.setdefault(how.said, (name, how))
        return chosen

    def _offer(self) -> None:
        """Offers the correlations that either side's runs were trained under, and says which are looked at."""
        if self._busy:
            return
        self._busy = True
        try:
            known = [how for side in self.sides for how in relatives(side.subject, self.found).values()]
            kinds = list(dict.fromkeys(how.kind for how in known if how.pairs))
            mine = [side.correlation() for side in self.sides]
            own = next((how.kind for how in mine if how.pairs), "")
            kind = own or (self.kind if self.kind in kinds else (kinds or [""])[0])
            self.param.kind.objects = kinds or [""]
            self.kind = kind
            self._offer_sigmas()
        finally:
            self._busy = False

    def _offer_sigmas(self) -> None:
        said = {how.said: how.sigma for side in self.sides for _, how in self.correlations(side).values()}
        order = sorted(said, key=lambda word: (said[word] is not None, -(said[word] or 0)))
        self.param.sigma.objects = order or ["none"]
        now = self.sides[0].correlation().said
        self.sigma = now if now in order else (order or ["none"])[0]

    @param.depends("sigma", "kind", watch=True)
    def _slide(self) -> None:
        """Goes, in both columns, to the run under the chosen correlation that is like the one shown in all else."""
        if self._busy:
            return
        self._busy = True
        try:
            self._offer_sigmas() if self.sigma not in self.sigmas() else None
            for side in self.sides:
                found = self.correlations(side).get(self.sigma)
                if found is not None and found[0] != side.subject:
                    side.subject = found[0]
        finally:
            self._busy = False
        self._follow(None, self.sides[0])

    def sigmas(self) -> list[str]:
        """How strong the correlations are that runs were trained under, the weakest first."""
        known = {how.said: how.sigma or float("inf") for side in self.sides for _, how in self.correlations(side).values()}
        return sorted(known, key=lambda word: -known[word])

    def slides(self) -> bool:
        """Whether there are runs that differ in the correlation alone."""
        return len(self.sigmas()) > 1

    def missing(self) -> list[str]:
        """Sides that have no run of the chosen correlation, a sentence each."""
        if not self.slides():
            return []
        return [
            f"{side.subject} has no counterpart under σ {self.sigma}: it stays."
            for side in self.sides
            if self.sigma not in self.correlations(side) and side.correlation().said != self.sigma
        ]

    def pair(self) -> tuple[str, str] | None:
        """The two factors whose going together is shown; those of the factor that is looked for, where it is in several pairs."""
        hows = [how for side in self.sides for how in relatives(side.subject, self.found).values() if how.kind == self.kind]
        pairs = [pair for how in hows for pair in how.pairs]
        factor = self.sides[0].factor
        return next((pair for pair in pairs if factor in pair), (pairs or [None])[0])

    def correlated(self) -> bool:
        """Whether there are two ways to judge: some side's images are correlated, and not given by the reader."""
        return any(side.correlation().pairs and self.found[side.subject].images is None for side in self.sides)

    # judging

    def kept(self) -> list[str]:
        """The files of all that was judged of either side; another list where something new was kept."""
        return [file for side in self.sides for file in side.kept()]

    def unjudged(self) -> list[str]:
        """What is shown and was not judged, then what the slider leads to and was not; by name."""
        return list(dict.fromkeys(name for name, *_ in self._jobs()))

    def _jobs(self) -> list[tuple[str, str, str]]:
        """The subject, layer and images of all that was not judged yet."""
        shown = [(side.subject, side.layer, side.where) for side in self.sides if side.found and not side.judged()]
        more = [
            (name, side.layer, side.where)
            for side in self.sides
            for name, _ in self.correlations(side).values()
            if name != side.subject and self.slides() and not _judged(self.found[name], side.layer, side.where)
        ]
        return list(dict.fromkeys([*shown, *more]))

    def begin(self) -> Iterator[Any]:
        """Judges what was not judged yet, and keeps the tables; yields how far it has come. Torch comes then."""
        jobs = self._jobs()
        return (
            Come((i + at.share) / len(jobs), f"{name}: {at.next}")
            for i, (name, layer, where) in enumerate(jobs)
            for at in judging(self.found[name], layer=layer, where=where)
        )

    # in words

    def title(self) -> str:
        """Which of two tells factors apart; of one, what its matrix says."""
        judged = [side for side in self.sides if side.judged()]
        if not judged:
            return "Which code is of which factor?"
        if len(judged) == 1:
            said = judged[0].title()
            return f"{judged[0].called()}: {said[0].lower()}{said[1:]}"
        d = [side.score("disentanglement") for side in judged]
        if len({side.about("trees") for side in judged}) > 1:
            said = [f"{value:.2f} by {side.about('trees')} trees" for value, side in zip(d, judged, strict=True)]
            return f"DCI-D {said[0]} a class and {said[1]} do not compare"
        told = " and ".join(f"{side.score('informativeness'):.2f}" for side in judged)
        if abs(d[0] - d[1]) < ALIKE:
            return f"Both tell factors apart about alike: DCI-D {d[0]:.2f} and {d[1]:.2f}, I {told}"
        more, less = sorted(judged, key=lambda side: -side.score("disentanglement"))
        told = " and ".join(f"{side.score('informativeness'):.2f}" for side in (more, less))
        said = f"DCI-D {max(d):.2f} against {min(d):.2f}, I {told}"
        names = more.called(less.subject), less.called(more.subject)
        return f"{names[0]} tells factors apart better than {names[1]}: {said}"

    def _beside(self, side: FactorSide) -> str:
        return next((other.subject for other in self.sides if other is not side), "")

    def finding(self) -> str:
        """What the two were trained on, and that it is one run each."""
        judged = [side for side in self.sides if side.judged()]
        trained = [f"{side.called(self._beside(side))} was {words}" for side in judged if (words := side.trained())]
        trained = [f"Both were {judged[0].trained()}"] if len(trained) == 2 and _alike(judged) else trained
        on = f"judged on {judged[0].about('n'):,} {judged[0].about('images')}" if judged else ""
        seeds = "one run each, and other seeds may differ as much" if len(judged) == 2 else ""
        return "; ".join(filter(None, [*trained, on, seeds])) + "." if judged else ""


class Come(NamedTuple):
    """How far the judging has come: the share that is done, from 0 to 1, and what is done next."""

    share: float
    next: str


def _judged(subject: Subject, layer: str, where: str) -> bool:
    try:
        return layer in judged_layers(subject.run(), where=where)[1]
    except (OSError, ValueError, KeyError):
        return True  # it cannot be judged, and says so when it is looked at


def _alike(sides: list[FactorSide]) -> bool:
    return len({side.trained() for side in sides}) == 1


def _same_images(one: FactorSide, other: FactorSide) -> bool:
    return one.tables["images"].equals(other.tables["images"])
