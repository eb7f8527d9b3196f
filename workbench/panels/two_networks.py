"""Two networks side by side, without a picture: how alike their layers are, and an image's neighbours in each."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import param

from workbench.comparing import COMPARE_TABLES, comparison_steps, kept_comparison
from workbench.figures.cuts import short_layers
from workbench.panels.layer_cuts import Subject

__all__ = ["CompareState"]

COLUMNS = {
    "similarity": {"layer", "other", "measure", "value", "null", "null_map", "chance", "n", "k"},
    "neighbours": {"side", "layer", "row", "rank", "neighbour", "cosine"},
    "spectra": {"side", "layer", "rank", "value"},
    "images": {"row", "thumbnail"},
}
MEASURES = {"CKA": "cka", "Shared neighbours": "mutual_knn"}
ORDERS = {"at random": "random", "that share fewest": "fewest", "that share most": "most"}
KINDS = 50  # values up to which a factor is one of kinds, that images can share
SIDES = ("one", "other")


class CompareState(param.Parameterized):
    """State and derivations: which two networks at which steps, which pair of layers, which image. Tables are read, not made.

    Arguments:
        found: Subjects by name.
    """

    one = param.Selector(doc="The run or model whose layers are the rows of the map")
    step = param.Selector(doc="Its step")
    other = param.Selector(doc="The run or model whose layers are the columns")
    other_step = param.Selector(doc="Its step")
    measure = param.Selector(default="cka", objects=MEASURES, doc="How alike two layers are")
    layer = param.Selector(doc="The layer of the first that was chosen")
    other_layer = param.Selector(doc="The layer of the second that was chosen")
    order = param.Selector(default="random", objects=ORDERS, doc="Which images come first")
    factor = param.Selector(doc="The factor that is written below the images")
    row = param.Integer(0, doc="The image whose neighbours are shown")

    def __init__(self, found: Mapping[str, Subject], **params: Any) -> None:
        super().__init__(**params)
        self.found, self.trouble = dict(found), ""
        self.tables: dict[str, pd.DataFrame] = {}
        self._identities: dict[tuple[str, int], tuple[float, str]] = {}
        self._pair: tuple[str, ...] = ()
        names = list(self.found) or [""]
        self.param.one.objects = self.param.other.objects = names
        self.one, self.other = names[0], names[min(1, len(names) - 1)]
        self._offer_steps("step", self.one)
        self._offer_steps("other_step", self.other, first=len(names) == 1)
        self.param.watch(lambda event: self._offer_steps("step", event.new), "one")
        self.param.watch(lambda event: self._offer_steps("other_step", event.new), "other")
        self.param.watch(lambda *events: self._first_image(), ["layer", "other_layer", "order"])
        self.refresh()

    def _offer_steps(self, name: str, subject: str, *, first: bool = False) -> None:
        """Offers the steps that the subject kept, and takes the last (or the first)."""
        known = self.steps(subject)
        self.param[name].objects = known
        setattr(self, name, known[0 if first else -1])

    def steps(self, subject: str) -> list[int]:
        """The steps whose weights are there; of a model that was not looked at yet, 0."""
        found = self.found.get(subject)
        try:
            return (found.run().steps if found is not None and found.there else []) or [0]
        except (OSError, ValueError):
            return [0]

    def refresh(self) -> None:
        """Takes up the tables of the two as they are now; layers and image that were chosen stay, where they are there."""
        self.trouble, before = "", self._pair
        self._pair = (self.one, self.other)
        try:
            self.tables = self._read()
        except (ValueError, OSError, KeyError) as error:
            self.tables, self.trouble = {}, str(error).strip("'\"")
        self._layers, self._near = {side: self._distinct(side) for side in SIDES}, {}
        layers, others = (self.layers(side) for side in SIDES)
        chosen = self.layer, self.other_layer
        there = before == self._pair and chosen[0] in layers and chosen[1] in others
        layer, other = chosen if there else ((layers or [""])[-1], (others or [""])[-1])
        factors = self.factors()
        factor = self.factor if self.factor in factors else next((f for f in ("class_name", "label") if f in factors), "")
        self.param.layer.objects, self.param.other_layer.objects = layers or [""], others or [""]
        self.param.factor.objects = factors or [""]
        row = self.row  # menus that are given other words take the first of them, so what was chosen is said after
        self.param.update(layer=layer, other_layer=other, factor=factor or (factors or [""])[0])
        self.row = row
        if not there or row >= len(self.tables.get("images", [])):
            self._first_image()

    def _read(self) -> dict[str, pd.DataFrame]:
        pair = [self.found.get(name) for name in (self.one, self.other)]
        if not all(subject is not None and subject.there for subject in pair):
            return {}
        tables = kept_comparison(*(s.run() for s in pair), step=self.step, other_step=self.other_step)
        for name in COMPARE_TABLES if tables else ():
            if missing := COLUMNS[name] - set(tables[name]):
                raise ValueError(f"{name} lacks the columns {sorted(missing)}; delete tables/compared and compare again")
        return tables

    def kept(self) -> list[str]:
        """The files of all comparisons of the two; another list where something new was kept."""
        pair = [self.found[name].path for name in (self.one, self.other) if name in self.found]
        return sorted(str(file) for path in pair for file in (path / "tables" / "compared").glob("*/*/similarity.parquet"))

    def compared(self) -> bool:
        """Whether there is something to see."""
        return bool(self.tables)

    def begin(self) -> Iterator[Any]:
        """Compares the two as they are chosen now, and keeps the tables; yields how far it has come. Torch comes then."""
        return _compared(self.found[self.one], self.found[self.other], step=self.step, other_step=self.other_step)

    # how alike the layers are

    def layers(self, side: str) -> list[str]:
        """The layers of one side, without those that say exactly what ``backbone`` says, as its pooled last stage does."""
        return self._layers[side]

    def _distinct(self, side: str) -> list[str]:
        table = self.tables.get("spectra")
        if table is None:
            return []
        known = {name: part["value"].to_numpy() for name, part in table[table["side"] == side].groupby("layer", sort=False)}
        whole = known.get("backbone")
        return [n for n, v in known.items() if n == "backbone" or whole is None or not np.array_equal(v, whole)]

    def similarity(self, measure: str | None = None) -> pd.DataFrame:
        """A row a pair of layers, by the chosen measure (or another)."""
        table = self.tables["similarity"]
        table = table[table["measure"] == (measure or self.measure)]
        return table[table["layer"].isin(self.layers("one")) & table["other"].isin(self.layers("other"))]

    def value(self, measure: str, layer: str | None = None, other: str | None = None, *, column: str = "value") -> float:
        """What the measure says of a pair, by default of the one that was chosen; or another ``column`` of it."""
        table = self.similarity(measure)
        at = (table["layer"] == (layer or self.layer)) & (table["other"] == (other or self.other_layer))
        return float(table.loc[at, column].iloc[0])

    def choose(self, layer: str, other: str) -> None:
        """Takes one cell of the map."""
        self.param.update(layer=layer, other_layer=other)

    def called(self, side: str) -> str:
        """What a side is called: the subject, and its step where both are the same one."""
        subject, step = (self.one, self.step) if side == "one" else (self.other, self.other_step)
        return f"{subject}, step {step:,}" if self.one == self.other else subject

    def short(self, side: str, layer: str | None = None) -> str:
        """The short name of the chosen layer of a side, or of another."""
        layer = layer or (self.layer if side == "one" else self.other_layer)
        return short_layers(self.layers(side)).get(layer, layer)

    def same(self) -> bool:
        """Whether both sides are the same weights."""
        return (self.one, self.step) == (self.other, self.other_step)

    def title(self) -> str:
        """What the map says, in few words."""
        first, last = self._ends(self.measure)
        word, floor = "CKA", self._floor()
        if self.measure == "mutual_knn":
            word, floor = "shared neighbours", self.value("mutual_knn", column="chance")
        against = f"{'null' if self.measure == 'cka' else 'chance'} {floor:.1g}"
        if self.same():
            return f"The same weights: {word} 1.00 along the diagonal"
        if last <= floor:
            return f"The last layers are no more alike than unrelated images: {word} {last:.2f}, {against}"
        if last < first:
            return f"The deepest layers part: {word} {first:.2f} to {last:.2f}, {against}"
        return f"The deepest layers meet: {word} {first:.2f} to {last:.2f}, {against}"

    def finding(self) -> str:
        """How alike the first layers are and the last, against what unrelated images are; and how many neighbours agree."""
        first, last = self._ends("cka")
        ends = [f"{self.short('one', self.layers('one')[i])} and {self.short('other', self.layers('other')[i])}" for i in (0, -1)]
        k, n = int(self.similarity()["k"].iloc[0]), int(self.similarity()["n"].iloc[0])
        near, chance = k * self._ends("mutual_knn")[1], k * self.value("mutual_knn", column="chance")
        return (
            f"{self.called('one')} and {self.called('other')}: CKA **{first:.2f}** between {ends[0]}, **{last:.2f}** between "
            f"{ends[1]}; unrelated images stay below {self._floor():.2g} anywhere. "
            f"Of {k} nearest of {n:,} images the last layers share **{near:.1f}** (by chance {chance:.1g})"
        )

    def _ends(self, measure: str) -> tuple[float, float]:
        """Of the first layers of both, and of the last."""
        pairs = [(self.layers("one")[i], self.layers("other")[i]) for i in (0, -1)]
        return self.value(measure, *pairs[0]), self.value(measure, *pairs[1])

    def _floor(self) -> float:
        """What unrelated images stay below anywhere in the map."""
        return float(self.similarity("cka")["null_map"].max())

    def about_pair(self) -> str:
        """The numbers of the pair that was chosen."""
        value, null, p = (self.value("cka", column=c) for c in ("value", "null", "p"))
        within = ", no more than unrelated images" if not value > null else ""
        k, chance = self.value("mutual_knn", column="k"), self.value("mutual_knn", column="chance")
        said = f"CKA **{value:.3f}**{within} (unrelated images stay below {null:.2g}, p {_at_least(p)}); "
        return said + f"**{k * self.value('mutual_knn'):.1f}** of {k:.0f} neighbours shared (by chance {k * chance:.1g})"

    def spectra(self) -> pd.DataFrame:
        """The spectra of the two layers, with a column ``which``."""
        table = self.tables["spectra"]
        parts = []
        for side, layer in zip(SIDES, (self.layer, self.other_layer), strict=True):
            part = table[(table["side"] == side) & (table["layer"] == layer)]
            parts.append(part.assign(which=f"{self.called(side)}: {self.short(side)}"))
        parts[1]["which"] += " (again)" if parts[0]["which"].iloc[0] == parts[1]["which"].iloc[0] else ""
        return pd.concat(parts, ignore_index=True)

    def remarks(self) -> list[str]:
        """What the reader has to know of the pair, a sentence each."""
        pair = [self.found.get(name) for name in (self.one, self.other)]
        if None in pair:
            return []
        said = []
        if len(self.found) == 1 and len(self.steps(self.one)) < 2:
            said.append(
                "There is one network of one step, held against itself: give a second run, or a model of timm: timm:resnet18."
            )
        if not self.compared() and not self.trouble:
            said.append(f"{self.called('one')} and {self.called('other')} were not compared yet.")
        random = [s.model for s in dict.fromkeys(pair) if s.model and "." not in s.model]
        said += [f"{name} has random weights; a tag such as .a1_in1k would name published ones." for name in random]
        about = [s.run().spec.get("images") or {} if s.there and not s.model else {} for s in pair]
        if all(a.get("digest") for a in about) and about[0]["digest"] != about[1]["digest"]:
            shown = f"images of {self.tables['similarity']['images'].iloc[0]}" if self.compared() else "the same images"
            trained = " and ".join(f"{n} on {a.get('name')}" for n, a in zip((self.one, self.other), about, strict=True))
            said.append(f"Trained on different images ({trained}); here both look at {shown}.")
        return said

    # an image and its neighbours

    def factors(self) -> list[str]:
        """The factors of the images, those of kinds first."""
        table = self.tables.get("images")
        if table is None:
            return []
        names = [c.removeprefix("factor.") for c in table if c.startswith("factor.")]
        return sorted(names, key=lambda name: not self.kinds(name))

    def kinds(self, factor: str) -> bool:
        """Whether a factor has few values, that images can share."""
        values = self.tables["images"].get(f"factor.{factor}")
        return values is not None and not pd.api.types.is_float_dtype(values) and values.nunique() <= KINDS

    def ids(self, side: str) -> np.ndarray:
        """The neighbours (n, k) of every image at the chosen layer of a side, nearest first."""
        key = side, self.layer if side == "one" else self.other_layer
        if key not in self._near:
            table = self.tables["neighbours"]
            table = table[(table["side"] == side) & (table["layer"] == key[1])].sort_values(["row", "rank"])
            self._near[key] = table["neighbour"].to_numpy().reshape(-1, int(table["rank"].max()))
        return self._near[key]

    def agreement(self) -> np.ndarray:
        """How many neighbours each image has in both of the chosen layers."""
        one, other = self.ids("one"), self.ids("other")
        return (one[:, :, None] == other[:, None, :]).sum((1, 2))

    def ordered(self) -> np.ndarray:
        """The rows of the images in the chosen order; images that agree alike in the order of the rows."""
        if self.order == "random":
            return np.arange(len(self.tables["images"]))  # they were drawn at random
        agreement = self.agreement()
        return np.argsort(-agreement if self.order == "most" else agreement, kind="stable")

    def _first_image(self) -> None:
        if self.compared() and self.layer and self.other_layer:
            self.row = int(self.ordered()[0])

    def move(self, by: int) -> None:
        """Goes on to the next image in the order, or back; beyond the end it begins anew."""
        order = self.ordered()
        self.row = int(order[(int(np.flatnonzero(order == self.row)[0]) + by) % len(order)])

    def neighbours(self, side: str) -> pd.DataFrame:
        """The neighbours of the image at the chosen layer of a side, nearest first.

        Columns rank, row, cosine, ``shared`` (whether the other side has it too) and ``alike`` (whether it has the image's
        value of the factor, where that is of kinds).
        """
        table, layer = self.tables["neighbours"], self.layer if side == "one" else self.other_layer
        table = table[(table["side"] == side) & (table["layer"] == layer) & (table["row"] == self.row)].sort_values("rank")
        table = table[["rank", "neighbour", "cosine"]].rename(columns={"neighbour": "row"}).reset_index(drop=True)
        values = self.tables["images"].get(f"factor.{self.factor}")
        own = self.kinds(self.factor)
        alike = values.iloc[table["row"]].to_numpy() == values.iloc[self.row] if own else np.zeros(len(table), bool)
        return table.assign(shared=table["row"].isin(self.ids("other" if side == "one" else "one")[self.row]), alike=alike)

    def kept_kinds(self, side: str) -> float:
        """The share of all images' neighbours at a side that have the image's value of the factor; NaN where it is a number."""
        if not self.kinds(self.factor):
            return float("nan")
        values = self.tables["images"][f"factor.{self.factor}"].to_numpy()
        return float((values[self.ids(side)] == values[:, None]).mean())

    def described(self, row: int) -> tuple[bytes, str, str]:
        """PNG of an image, its value of the factor, and all its factors."""
        one = self.tables["images"].iloc[row]
        factors = {c.removeprefix("factor."): _written(one[c]) for c in self.tables["images"] if c.startswith("factor.")}
        return one["thumbnail"], factors.get(self.factor, ""), "\n".join(f"{name}: {value}" for name, value in factors.items())


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


def _at_least(p: float) -> str:
    """A share of permutations, which is at least that of the value itself."""
    return f"{p:.2g}" if np.isfinite(p) else "–"


def _compared(one: Subject, other: Subject, **steps: int) -> Iterator[Any]:
    """Compares two subjects; a model by name becomes a run on the way, to be looked at with the images of the other."""
    images = one.images() if one.images else None
    if one.model and not one.there and images is None and not other.model:
        one_run = one.run(other.run().images())
    else:
        one_run = one.run(images)
    other_run = other.run(images if images is not None or other.there else one_run.images())
    yield from comparison_steps(one_run, other_run, images, **steps)
