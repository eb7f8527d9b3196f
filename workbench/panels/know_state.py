"""What a representation knows, without a picture: which image, which two layers, how many samples, and what they say."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import param

from workbench.panels.know_drawing import FRAMES, Condition, Drawn, DrawSettings, Source, Studio, denoised_layers
from workbench.panels.layer_cuts import Subject

__all__ = ["KnowState", "SampleRow"]

VIEWS = {"Samples": "samples", "Interpolation": "between", "Common dimensions": "dimensions"}
SIDES = ("left", "right")
KEPT = 6000  # images that a session remembers
FIRST = 4  # samples of every row before there are more of any
LEVEL = 0.95  # of intervals over samples
ODD = 0.95  # share of the gallery nearer to its neighbours, from which on an image is told as unlike it
FINE = 12  # values from which on a factor's neighbours count as the same
ROUND = ("hue", "orientation", "azimuth")  # factors that end where they begin
CHANGES = ("plain", "zeroed", "random zeroed", "swapped", "random swapped")


class SampleRow(NamedTuple):
    """A row of samples: what they are drawn of, in words, and its condition."""

    words: str
    condition: Condition


class KnowState(param.Parameterized):
    """State and derivations: which run, image and layers, and how images are drawn. What was drawn is remembered.

    Arguments:
        found: Runs by name.
    """

    subject = param.Selector(doc="The run that is looked at")
    left = param.Selector(doc="The layer that images are drawn of on the left")
    right = param.Selector(doc="The layer on the right")
    first = param.Parameter(0, doc="The image: its row of the gallery, or the pixels of one that was dropped in")
    second = param.Parameter(1, doc="A second image, to go to or to take dimensions from")
    view = param.Selector(default="samples", objects=VIEWS, doc="What is drawn")
    at = param.Integer((FRAMES - 1) // 2, bounds=(0, FRAMES - 1), doc="Eighths of the way from the first image to the second")
    samples = param.Selector(default=16, objects=[4, 8, 16, 32, 64], doc="Images of each row")
    seed = param.Integer(0, bounds=(0, 50), doc="Of the noise that images start from")
    steps = param.Selector(default=10, objects=[5, 10, 20, 50], doc="Of the sampler")
    guidance = param.Number(1.0, bounds=(0, 4), doc="1: the plain samples; 0: of no representation; above 1: exaggerated")
    annealing = param.Number(0.0, bounds=(0, 1), doc="Condition annealing (CADS): noise on the condition that fades")

    def __init__(self, found: Mapping[str, Subject], **params: Any) -> None:
        super().__init__(**params)
        self.found = dict(found)
        self.studio: Studio | None = None
        self.drawn: dict[tuple[DrawSettings, Condition, int], Drawn] = {}
        self.dropped: list[bytes] = []
        self._memory: dict[tuple[str, str], tuple[Any, Any]] = {}
        names = list(self.found) or [""]
        able = [name for name in names if self.layers(name)]
        self.param.subject.objects, self.subject = names, (able or names)[0]
        self._offer()

    # which layers

    def layers(self, name: str = "") -> list[str]:
        """The layers of a run, by default of that looked at, that images can be drawn of; deepest last where they are usual."""
        subject = self.found.get(name or self.subject)
        return denoised_layers(subject) if subject is not None else []

    @param.depends("subject", watch=True)
    def _offer(self) -> None:
        layers = self.layers() or [""]
        self.studio, self.dropped = None, []
        self.drawn.clear()
        self._memory.clear()
        left = self.left if self.left in layers else layers[0]
        right = self.right if self.right in layers and self.right != left else layers[-1]
        for side in SIDES:
            self.param[side].objects = layers
        self.param.update(left=left, right=right, first=0, second=1)

    def shown(self) -> list[str]:
        """The sides that are shown: one where there is one layer."""
        return [*SIDES] if len(self.layers()) > 1 else ["left"]

    def take(self, studio: Studio) -> None:
        """Takes up what draws the images of the run."""
        self.studio = studio
        others = np.flatnonzero(np.arange(len(studio.pixels)) != 0)
        if isinstance(self.second, int) and self.second >= len(studio.pixels):
            self.second = int(others[0]) if len(others) else 0

    def drop(self, content: bytes, place: str = "first") -> Source:
        """Takes an image from a file in; it is cropped and resized to those of the gallery.

        Arguments:
            content: The file.
            place: Which image it becomes, ``"first"`` or ``"second"``.

        Raises:
            ValueError: If it is no image, in a sentence.
        """
        import io

        from workbench.data.decoding import decode

        height, _, channels = self.studio.pixels.shape[1:]
        try:
            pixels = decode(io.BytesIO(content), size=height, channels=channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError("That file is no image that can be read: a PNG, JPEG, WebP or GIF is wanted.") from error
        source = np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes()
        self.dropped = [source, *(one for one in self.dropped if one != source)]
        self.param.update(**{place: source})
        return source

    # what is to be drawn

    def settings(self) -> DrawSettings:
        """How images are drawn."""
        return DrawSettings(self.seed, self.steps, self.guidance, self.annealing)

    def rows(self, side: str) -> list[SampleRow]:
        """The rows of samples of a side, from the top."""
        layer, first, second = getattr(self, side), self.first, self.second
        if self.view == "samples":
            return [SampleRow("", Condition(layer, first))]
        if self.view == "between":
            return [SampleRow(f"{at} / {FRAMES - 1}", self._between(layer, at)) for at in range(FRAMES)]
        nothing = self.nothing(side)
        words = (
            "as it is",
            f"common {nothing}",
            f"as many at random {nothing}",
            "common as in the second",
            "as many at random as in the second",
        )
        return [
            SampleRow(word, Condition(layer, first, kind, second if "swapped" in kind else None))
            for word, kind in zip(words, CHANGES, strict=True)
        ]

    def nothing(self, side: str) -> str:
        """What becomes of dimensions that are to say nothing, see :func:`manipulate`."""
        return "set to 0" if self.studio.sparse(getattr(self, side)) else "set to the mean"

    def _between(self, layer: str, at: int) -> Condition:
        """The ends are the two images as they are, so that their samples are those of the first view."""
        if at in (0, FRAMES - 1):
            return Condition(layer, self.second if at else self.first)
        return Condition(layer, self.first, "between", self.second, at)

    def many(self) -> int:
        """Images a row: fewer where there are several rows."""
        return self.samples if self.view == "samples" else min(self.samples, 4 if self.view == "between" else 8)

    def wanted(self) -> list[tuple[Condition, int]]:
        """What was not drawn yet, in the order in which it is to be: a few of both sides, a few of every row, the rest."""
        settings, parts = self.settings(), [[], [], []]
        for side in self.shown():
            rows = self.rows(side)
            lead = rows[self.at if self.view == "between" else 0]
            for row in rows:
                for i in range(self.many()):
                    parts[2 if i >= FIRST else row is not lead].append((row.condition, i))
        return [one for one in dict.fromkeys(itertools.chain(*parts)) if (settings, *one) not in self.drawn]

    def keep(self, settings: DrawSettings, made: Sequence[tuple[tuple[Condition, int], Drawn]]) -> None:
        """Remembers what was drawn; of more than a few thousand images the oldest go."""
        self.drawn |= {(settings, *wanted): drawn for wanted, drawn in made}
        for key in list(self.drawn)[: max(len(self.drawn) - KEPT, 0)]:
            del self.drawn[key]

    def of(self, condition: Condition) -> list[Drawn | None]:
        """The samples of a row, None where one was not drawn yet."""
        settings = self.settings()
        return [self.drawn.get((settings, condition, i)) for i in range(self.many())]

    def complete(self) -> bool:
        """Whether all is drawn."""
        return self.studio is not None and not self.wanted()

    # what it says

    def ranks(self, side: str) -> pd.DataFrame | None:
        """Median rank, MRR and relative distance of the first row's samples; None without any.

        With ``chance`` and ``others``, what other images in the place of the samples give: an image that is like many is near
        to all of them. Intervals are over the samples of this one image, at ``interval`` or above: of the median rank between
        two of the ranks, which holds however long their tail is, of the others as of :func:`rank_summary`.
        """
        return self._once("ranks", side, lambda made: self._ranks(made, side) if made else None)

    def _ranks(self, made: Sequence[Drawn], side: str) -> pd.DataFrame:
        from scipy.stats import binom

        from workbench.measures.sources import rank_summary

        table = pd.DataFrame([{"rank": d.rank, "relative": d.relative, "candidates": d.candidates} for d in made])
        n, ranks = len(table), np.sort(table["rank"].to_numpy())
        level = min(LEVEL, 1 - 2.0 ** (1 - n))  # that of the two ends of few samples
        summary = rank_summary(table.assign(source=range(n)), interval=level).set_index("measure")
        out = max(int(binom.ppf((1 - level) / 2, n, 0.5)), 1)
        summary.loc["median rank", ["low", "high"]] = ranks[out - 1], ranks[-out]
        return summary.assign(others=self.studio.others(getattr(self, side), self.first))

    def _once(self, what: str, side: str, work: Callable[[list[Drawn]], Any]) -> Any:
        """What ``work`` makes of the first row's samples, kept until there are more of them, or more can be read."""
        condition = self.rows(side)[0].condition
        made = self._made(condition)
        key = (self.settings(), condition, len(made), len(self.studio.reads))
        if self._memory.get((what, side), (None,))[0] != key:
            self._memory[what, side] = key, work(made)
        return self._memory[what, side][1]

    def kept(self, side: str) -> pd.DataFrame:
        """How many of the first row's samples look like the source in each factor, and chance.

        Columns factor, value, chance, right (how often the factor classifier is); empty while there is none, and of an image
        that was dropped in, whose factors it would only guess.
        """
        return self._once("kept", side, self._kept)

    def _kept(self, made: Sequence[Drawn]) -> pd.DataFrame:
        from workbench.measures.agreement import factor_agreement

        if not made or not self.studio.reads or not self.legible():
            return pd.DataFrame(columns=["factor", "value", "chance", "right"])
        wanted, near = self.studio.factors.iloc[[self.first]][list(self.studio.reads)], self.nearness()
        read = self.studio.read(np.stack([d.pixels for d in made]))
        table = factor_agreement(read, wanted, copies=len(made), **near)
        table = table.loc[table["measure"] == "kept", ["factor", "value"]].reset_index(drop=True)
        chance = [self._occurs(name, wanted[name].iloc[0], near) for name in table["factor"]]
        return table.assign(chance=chance, right=table["factor"].map(self.studio.reads))

    def _occurs(self, name: str, value: int, near: dict[str, dict[str, float]]) -> float:
        """The share of the gallery whose value of a factor counts as this one."""
        off, turn = (self.studio.factors[name] - value).abs(), near["periods"].get(name, np.inf)
        return float((np.minimum(off, turn - off) <= near["within"].get(name, 0)).mean())

    def nearness(self) -> dict[str, dict[str, float]]:
        """Which values of a factor count as one: those within a twelfth of all, and of hues and angles also across the end."""
        counts = {name: int(self.studio.factors[name].max()) + 1 for name in self.studio.reads}
        return {
            "within": {name: float(n // FINE) for name, n in counts.items() if n >= FINE},
            "periods": {name: float(n) for name, n in counts.items() if name.endswith(ROUND)},
        }

    def legible(self) -> bool:
        """Whether the images are like those that the factor classifiers learned from: none was dropped in."""
        return all(isinstance(source, int) for source in self.shows())

    def learns(self) -> bool:
        """Whether somebody still learns to read factors."""
        return self.studio.teaches and not self.studio.reads

    def _made(self, condition: Condition) -> list[Drawn]:
        return [one for one in self.of(condition) if one is not None]

    def maps(self, side: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean (H, W, C) and deviation (H, W) of a side's samples, from 0 to 1; None while there are fewer than two."""
        from workbench.measures.variation import sample_maps

        made = self._made(self.rows(side)[0].condition)
        if len(made) < 2:
            return None
        mean, deviation = sample_maps(np.stack([d.pixels for d in made]).transpose(0, 3, 1, 2), copies=len(made))
        return mean[0].transpose(1, 2, 0), deviation[0]

    def darkest(self) -> float:
        """The end of the scale of both sides' deviations: the largest, rounded up."""
        shown = [maps[1].max() for maps in map(self.maps, self.shown()) if maps is not None]
        return max(math.ceil(20 * max(shown, default=0.0)), 1) / 20

    def changes(self, side: str) -> pd.DataFrame:
        """How often each factor of the samples changed with each change of the dimensions: a row a factor, a column a kind.

        Only of changes that are drawn in full; empty while nobody can read factors.
        """
        from workbench.measures.agreement import factor_changes

        made = {row.condition.kind: self._made(row.condition) for row in self.rows(side)}
        whole = {kind: images for kind, images in made.items() if len(images) == self.many()}
        if not self.studio.reads or "plain" not in whole or len(whole) < 2:
            return pd.DataFrame()
        read = {kind: self.studio.read(np.stack([d.pixels for d in images])) for kind, images in whole.items()}
        table = factor_changes(read.pop("plain"), read, copies=self.many(), **self.nearness())
        changed = table[table["measure"] == "changed"].pivot(index="factor", columns="change", values="value")
        return changed.loc[list(self.studio.reads), list(read)]

    def common(self, side: str) -> tuple[int, int]:
        """How many dimensions of the first image are common, and how many there are."""
        mask = self.studio.common(getattr(self, side), self.first)
        return int(mask.sum()), len(mask)

    # in words

    def meaning(self, side: str) -> str:
        """Which dimensions are common."""
        neighbours, least = self.studio.neighbourhood()
        on = "it is not 0" if self.studio.sparse(getattr(self, side)) else "|z| is above its median"
        return f"A dimension is common where {on} in at least {least} of the {neighbours} nearest neighbours."

    def called(self, source: Source) -> str:
        """What an image is called."""
        return f"no. {source}" if isinstance(source, int) else "dropped in"

    def shows(self) -> list[Source]:
        """The images that are looked at: the first, and the second where it takes part."""
        return [self.first] if self.view == "samples" else [self.first, self.second]

    def file_name(self) -> str:
        """The name of a file of what is shown."""
        (view,) = (name for name, view in VIEWS.items() if view == self.view)
        parts = [view.lower(), *(self.called(source).replace(". ", "") for source in self.shows())]
        return f"know_{'_'.join(parts).replace(' ', '_')}.png"

    def strangers(self, side: str) -> list[str]:
        """How unlike the gallery an image is that was dropped in, a sentence each, once all of it is drawn."""
        said = []
        for word, source in zip(("It", "The second image"), self.shows() if self.complete() else (), strict=False):
            if isinstance(source, bytes):
                relative, beyond = self.studio.unlike(getattr(self, side), source)
                share = "all" if beyond == 1 else f"{math.floor(100 * beyond)}%"
                told = f"{word} is {relative:.1f} times as far from its nearest image of the gallery as these are from theirs, "
                told += f"further than {share} of them"
                said.append(f"{told}: what is drawn of it is a guess." if beyond >= ODD else f"{told}.")
        return said

    def remarks(self) -> list[str]:
        """What the reader has to know, a sentence each."""
        if not self.found:
            return []
        if not self.layers():
            path = self.found[self.subject].path
            command = f"`workbench denoise {path} --layers backbone projector`"
            return [
                f"{self.subject} has no denoisers yet, which draw images of what its layers say. {command} trains them; "
                f"`workbench know` alone opens a run that has some."
            ]
        if self.studio is not None and not self.studio.unseen and self.found[self.subject].images is None:
            return [f"There are no images of this kind that {self.subject} was not trained on: these are its own."]
        return []

    def told_rank(self, side: str) -> str | None:
        """The median rank of a side's samples, its interval and chance, in words; None without samples."""
        table = self.ranks(side)
        if table is None:
            return None
        rank, n, level = table.loc["median rank"], table["n"].iloc[0], table["interval"].iloc[0]
        return f"median rank {_between(rank)}, {level:.0%} interval over {n} samples; {_held_against([rank])}"

    def title(self) -> str:
        """Which side's samples come nearer to their source, once all are drawn."""
        if self.view == "between":
            return "From one image to the other: what changes at once, and what little by little?"
        if self.view == "dimensions":
            return "What do the dimensions hold that an image has in common with its neighbours?"
        if not self.complete():
            return "What does the representation still know of an image?"
        middle = {getattr(self, side): self.ranks(side).loc["median rank"] for side in self.shown()}
        bar = {layer: min(rank["others"], rank["chance"]) for layer, rank in middle.items()}
        much = [layer for layer, rank in middle.items() if rank["value"] < bar[layer] / 2]
        back = [layer for layer in much if middle[layer]["high"] < bar[layer]]
        order = sorted(middle, key=lambda layer: middle[layer]["value"])
        near, far = order[0], order[-1]
        said = {layer: _between(rank) for layer, rank in middle.items()}
        beside = _held_against(middle.values())
        if near == far:
            does = "return to their source" if back else "do not come back to this image"
            return f"Samples of {near} {does}: median rank {said[near]}, {beside}"
        if not back:
            return f"Samples of neither layer come back to this image: median rank {' and '.join(said.values())}, {beside}"
        if any(middle[a]["low"] <= middle[b]["value"] <= middle[a]["high"] for a, b in ((near, far), (far, near))):
            return f"Samples return about as near to their source in {near} as in {far}: median rank {said[near]} and {said[far]}"
        if far not in much:
            ranks = f"median rank {said[near]} against {said[far]}, {beside}"
            return f"Samples return to their source in {near}, not in {far}: {ranks}"
        return f"Samples return nearer to their source in {near} than in {far}: median rank {said[near]} against {said[far]}"

    def finding(self) -> str:
        """Chance, and the factor in which the two sides differ most."""
        if self.view != "samples":
            return {
                "between": "Every row starts from the same noise, so that its images differ by the representation alone. "
                "The ends are samples of the two images as they are.",
                "dimensions": "A column starts from the same noise in every row. A change that the common dimensions make and "
                "as many at random do not is theirs.",
            }[self.view]
        if not self.complete():
            return "Images that share what a layer says of this one: what stays is in the representation, what varies is not."
        table = self.ranks("left")
        level, n, many = (table[name].iloc[0] for name in ("interval", "n", "candidates"))
        others = dict.fromkeys(_number(self.ranks(side).loc["median rank", "others"]) for side in self.shown())
        said = f"Rank among {many:,} images by distance in each layer's own space; chance {_number((many + 1) / 2)}, "
        said += f"other images in place of the samples {' and '.join(others)}. "
        return f"{said}{n} samples of one image, [{level:.0%} intervals].{self._apart(n)}"

    def _apart(self, n: int) -> str:
        """The factor that one layer's ``n`` samples keep and the other's do not, where that is no accident."""
        from scipy.stats import fisher_exact

        both = [self.kept(side).set_index("factor") for side in self.shown()]
        if len(both) < 2 or any(one.empty for one in both):
            return ""
        counts = np.stack([(n * one["value"]).round().to_numpy(int) for one in both], 1)
        p = [fisher_exact([[a, n - a], [b, n - b]]).pvalue for a, b in counts]
        at = int(np.argmin(p))
        if p[at] * len(p) >= 1 - LEVEL:
            return ""
        (a, b), chance = counts[at], both[0]["chance"].iloc[at]
        name = both[0].index[at]
        return f" Most apart in {name}: kept by {a} of {n} in {self.left}, {b} of {n} in {self.right} (chance {chance:.0%})."


def _between(rank: pd.Series) -> str:
    return f"{_number(rank['value'])} [{_number(rank['low'])}, {_number(rank['high'])}]"


def _held_against(ranks: Iterable[pd.Series]) -> str:
    """What samples that know their source have to come below, in words: chance, or other images where these are nearer."""
    told: dict[str, list[str]] = {}
    for rank in ranks:
        column, word = ("chance", "chance") if rank["chance"] <= rank["others"] else ("others", "other images")
        told.setdefault(word, []).append(_number(rank[column]))
    return ", ".join(f"{word} {' and '.join(dict.fromkeys(numbers))}" for word, numbers in told.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")


def in_chunks(wanted: Sequence[tuple[Condition, int]], size: int) -> Iterator[list[tuple[Condition, int]]]:
    """Yields what is wanted in its order, ``size`` at a time at most, each part of one layer."""
    part: list[tuple[Condition, int]] = []
    for one in wanted:
        if part and (len(part) >= size or part[0][0].layer != one[0].layer):
            yield part
            part = []
        part.append(one)
    if part:
        yield part
