"""One run's codes beside the factors of the world, without a picture: which codes, which factor, which image, what is missing."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import param

from workbench.factoring import FACTOR_TABLES, code_layer, factor_steps, judged_layers, kept_factors, turning
from workbench.figures.cuts import short_layers
from workbench.panels.correlated import Correlation, correlation_of
from workbench.panels.decoding import Decoder
from workbench.panels.layer_cuts import Subject

__all__ = ["FactorSide"]

COLUMNS = {
    "images": {"row", "thumbnail"},
    "correlations": {"a", "b", "value"},
    "together": {"a", "b", "x", "y", "share", "r"},
    "codes": set(),
    "dims": {"code", "mean", "spread", "low", "high", "dead", "says", "shown", "place"},
    "matrices": {"matrix", "code", "factor", "value"},
    "supports": {"p", "q", "distance", "row", "x", "y"},
    "traversals": {"row", "code", "turn", "value", "thumbnail"},
    "suite": {"measure", "value", "convention", "warnings"},
    "about": {"layer", "layers", "n", "d", "shown", "decodes", "trees", "images", "repeats"},
}
WHERE = {"the uniform grid": "uniform", "the training images": "training"}
GRADES = ((0.8, "Each code is of one factor"), (0.5, "Most codes are of one factor"), (0.25, "Codes mix factors"))
SCENES = 4096  # images that a model of timm is judged on, where none are given


class FactorSide(param.Parameterized):
    """State and derivations of one column: subject, layer, images judged on, two codes, a factor, an image. Tables are read.

    A code is never held against itself: where one takes the place of the other, the two change places.

    Arguments:
        found: Subjects by name.
        subject: The one to begin with.
    """

    subject = param.Selector(doc="The run or model that is looked at")
    layer = param.Selector(doc="The layer whose codes are judged")
    where = param.Selector(default="uniform", objects=WHERE, doc="The images they are judged on")
    factor = param.Selector(doc="The factor that is looked for")
    code = param.Selector(doc="The code that was chosen: across in the scatter")
    other = param.Selector(doc="The code it is held against: upwards in the scatter")
    row = param.Integer(0, doc="The image whose codes are turned")
    values = param.List([], doc="The codes that are drawn: those of the image, and what was turned")

    def __init__(self, found: Mapping[str, Subject], subject: str = "", **params: Any) -> None:
        super().__init__(**params)
        self.found, self.trouble = dict(found), ""
        self.tables: dict[str, pd.DataFrame] = {}
        self._decoders: dict[str, Decoder] = {}
        self._shown: tuple[str, ...] = ()
        self._before: dict[str, Any] = {}
        self._busy = True  # until there is something to take up
        names = list(self.found) or [""]
        self.param.subject.objects = names
        self.subject, self._busy = subject or names[0], False
        self.refresh()

    @param.depends("subject", "layer", "where", watch=True)
    def refresh(self) -> None:
        """Takes up the tables of the subject and layer as they are now; codes, factor and image stay where they are there."""
        if not self._busy:
            self._busy = True
            try:
                self._refresh()
            finally:
                self._busy = False

    @property
    def moving(self) -> bool:
        """Whether a choice is being made whose parts follow one another, so that there is nothing to draw yet."""
        return self._busy

    def _refresh(self) -> None:
        self.trouble, self.tables = "", {}
        layer = self.layer if self._shown[:1] == (self.subject,) else ""
        try:
            known, judged = self._layers()
            first = self._first_layer()
            layer = layer or (first if first in judged or not judged else judged[0])
            self.tables = self._read(layer)
        except (ValueError, OSError, KeyError) as error:
            self.trouble, known = str(error.args[0] if error.args else error), []
        self.param.layer.objects = list(dict.fromkeys([*known, layer]))
        before, self._shown = self._shown, (self.subject, layer, self.where)
        factors, codes = self.factors(), self.codes()
        factor = self.factor if self.factor in factors else self._first_factor()
        stays = before == self._shown and self.code in codes and self.other in codes
        code, other = (self.code, self.other) if stays else self._first_codes(factor)
        row = self.row if self.row < len(self.tables.get("images", [])) else 0
        self.param.factor.objects = factors or [""]
        self.param.code.objects = self.param.other.objects = codes or [-1]
        self.param.update(layer=layer, factor=factor, code=code, other=other, row=row)
        self._before = {"code": code, "other": other}
        self.values = self.codes_of(row)

    def _read(self, layer: str) -> dict[str, pd.DataFrame]:
        if not self._there():
            return {}
        tables = kept_factors(self.found[self.subject].run(), layer=layer, where=self.where)
        for name in FACTOR_TABLES if tables else ():
            if missing := COLUMNS[name] - set(tables[name]):
                raise ValueError(f"{name} lacks the columns {sorted(missing)}; delete tables/factored and judge again")
        return tables

    def _there(self) -> bool:
        """Whether the subject stands on disk; False of a model by name that was not looked at yet."""
        subject = self.found.get(self.subject)
        if subject is not None and not subject.there and not subject.model:
            raise ValueError(f"{subject.path} is gone: give its new place, or look at another run")
        return subject is not None and subject.there

    def _first_layer(self) -> str:
        return code_layer(self.found[self.subject].run().spec) if self._there() else "backbone"

    def _layers(self) -> tuple[list[str], list[str]]:
        """The layers that are known, and those that were judged."""
        return judged_layers(self.found[self.subject].run(), where=self.where) if self._there() else ([], [])

    # what is there

    def judged(self) -> bool:
        """Whether there is something to see."""
        return bool(self.tables)

    def about(self, what: str) -> Any:
        """A fact of how it was judged: n, d, shown, decodes, trees, images."""
        return self.tables["about"][what].iloc[0]

    def decodes(self) -> bool:
        """Whether codes of this layer can be drawn."""
        return self.judged() and bool(self.about("decodes"))

    def factors(self) -> list[str]:
        """The factors that vary, in the order of the images' table."""
        return [c.removeprefix("number.") for c in self.tables.get("images", []) if c.startswith("number.")]

    def dims(self) -> pd.DataFrame:
        """The codes that are shown, a row each, in the order they are shown in."""
        table = self.tables["dims"]
        return table[table["shown"]].sort_values("place")

    def codes(self) -> list[int]:
        """The numbers of the codes that are shown."""
        return [int(code) for code in self.dims()["code"]] if self.judged() else []

    def dead(self) -> set[int]:
        """The codes that hardly move."""
        table = self.dims()
        return set(table.loc[table["dead"], "code"].astype(int))

    def matrix(self, name: str) -> pd.DataFrame:
        """A row a code that is shown and factor: ``"information"`` or ``"importance"``, with ``dead``."""
        table = self.tables["matrices"]
        table = table[table["matrix"] == name]
        order = {code: i for i, code in enumerate(self.codes())}
        table = table.assign(dead=table["code"].isin(self.dead()), place=table["code"].map(order))
        return table.sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)

    def says(self, code: int, factor: str) -> float:
        """The share of a factor's entropy that a code tells."""
        table = self.tables["matrices"]
        at = (table["matrix"] == "information") & (table["code"] == code) & (table["factor"] == factor)
        return float(table.loc[at, "value"].iloc[0])

    def score(self, measure: str) -> float:
        """A number of the suite."""
        table = self.tables["suite"]
        return float(table.loc[table["measure"] == measure, "value"].iloc[0])

    def best(self, factor: str) -> int:
        """The code that says most of a factor."""
        return max(self.codes(), key=lambda code: (code not in self.dead(), self.says(code, factor)))

    def best_factor(self, code: int) -> str:
        """The factor that a code says most of."""
        return max(self.factors(), key=lambda factor: self.says(code, factor))

    # choosing

    def _first_factor(self) -> str:
        factors = self.factors()
        tied = [f for pair in self.correlation().pairs for f in pair if f in factors]
        return tied[0] if tied else max(factors, key=lambda f: self.says(self.best(f), f), default="")

    def _first_codes(self, factor: str) -> tuple[int, int]:
        """The best code of the factor, and that of the factor it goes together with, or the next that says most of anything."""
        codes = self.codes()
        if not codes:
            return -1, -1
        code = self.best(factor)
        tied = [b if a == factor else a for a, b in self.correlation().pairs if factor in (a, b)]
        says = self.dims().set_index("code")["says"]
        rest = sorted((c for c in codes if c != code), key=lambda c: (c in self.dead(), -says[c]))
        if tied and tied[0] in self.factors() and self.best(tied[0]) != code:
            rest.insert(0, self.best(tied[0]))
        return code, (rest or [code])[0]

    @param.depends("code", watch=True)
    def _code_moved(self) -> None:
        self._apart("code", "other")

    @param.depends("other", watch=True)
    def _other_moved(self) -> None:
        self._apart("other", "code")

    def _apart(self, moved: str, rest: str) -> None:
        before, self._before = self._before, {"code": self.code, "other": self.other}
        if not self._busy and self.code == self.other and before.get(moved) in self.codes():
            setattr(self, rest, before[moved])

    def choose(self, code: int, factor: str = "") -> None:
        """Takes a code, and a factor or the one that it says most of."""
        if code in self.codes():
            self.param.update(code=code, factor=factor or (self.factor if code in self.dead() else self.best_factor(code)))

    def look_for(self, factor: str) -> None:
        """Takes a factor, and the code that says most of it."""
        if factor in self.factors():
            self.param.update(factor=factor, code=self.best(factor))

    # an image and its codes

    def codes_of(self, row: int) -> list[float]:
        """The codes of an image, as the decoder takes them; empty where there is none."""
        return self.tables["codes"].iloc[row].astype(float).tolist() if self.decodes() else []

    @param.depends("row", watch=True)
    def _another_image(self) -> None:
        if not self._busy:
            self.values = self.codes_of(self.row)

    def ranges(self) -> dict[int, tuple[float, float]]:
        """Between which values each code is turned."""
        return {code: (low, high) for code, low, high in turning(self.tables["dims"])}

    def turn(self, code: int, value: float) -> None:
        """Sets one code of those that are drawn."""
        self.values = [value if i == code else v for i, v in enumerate(self.values)]

    def turned(self) -> bool:
        """Whether any code is not the image's own."""
        return self.values != self.codes_of(self.row)

    def decoder(self) -> Decoder:
        """The decoder of the subject, which may have to be loaded first."""
        if self.subject not in self._decoders:
            self._decoders[self.subject] = Decoder(self.found[self.subject])
        return self._decoders[self.subject]

    def drawn(self) -> bytes | None:
        """PNG of the codes as they are turned; None where the decoder has to be loaded first."""
        if self.decoder().ready:
            return self.decoder().draw(np.array([self.values]))[0]
        table = self.tables["traversals"]
        kept = table.loc[(table["row"] == self.row) & (table["code"] < 0), "thumbnail"]
        return kept.iloc[0] if len(kept) and not self.turned() else None

    def traversals(self) -> pd.DataFrame | None:
        """What is drawn when one code of the image is turned: code, turn, value, thumbnail; None: load the decoder first."""
        table = self.tables["traversals"]
        kept = table[(table["row"] == self.row) & (table["code"] >= 0)]
        if len(kept) or not self.decoder().ready:
            return kept if len(kept) else None
        shape = table[(table["row"] == table["row"].min()) & (table["code"] >= 0)].drop(columns="thumbnail").assign(row=self.row)
        codes = np.tile(self.codes_of(self.row), (len(shape), 1))
        codes[np.arange(len(shape)), shape["code"]] = shape["value"]
        return shape.assign(thumbnail=self.decoder().draw(codes))

    def examples(self) -> list[int]:
        """The images whose traversals are kept."""
        return sorted(set(self.tables["traversals"]["row"].astype(int)))

    def original(self) -> tuple[bytes, str]:
        """PNG of the image, and its factors."""
        one = self.tables["images"].iloc[self.row]
        factors = {c.removeprefix("factor."): one[c] for c in self.tables["images"] if c.startswith("factor.")}
        return one["thumbnail"], "\n".join(f"{name}: {_written(value)}" for name, value in factors.items())

    # two codes, and what is missing

    def scatter(self) -> pd.DataFrame:
        """A row an image: the two codes ``x`` and ``y``, and ``number``, the factor's value, counted from 0."""
        codes, images = self.tables["codes"], self.tables["images"]
        both = {"x": codes[f"code.{self.code}"], "y": codes[f"code.{self.other}"], "number": images[f"number.{self.factor}"]}
        return pd.DataFrame(both).assign(row=np.arange(len(codes)))

    def values_of_factor(self) -> list[Any]:
        """The factor of each image: in words, where another column names its values, else as it is."""
        images = self.tables["images"]
        own = images.get(f"factor.{self.factor}", images[f"number.{self.factor}"])
        if not pd.api.types.is_integer_dtype(own):
            return own.tolist()
        for name in images:
            pairs = pd.DataFrame({"own": own, "named": images[name]}).drop_duplicates()
            words = name.startswith("factor.") and pairs["named"].map(lambda value: isinstance(value, str)).all()
            if words and pairs["own"].is_unique and pairs["named"].is_unique:
                return images[name].tolist()
        return own.tolist()

    def correlations(self) -> pd.DataFrame:
        """How strongly each two factors go together in the images judged on: a row and a column a factor, in their order."""
        table = self.tables["correlations"].pivot(index="a", columns="b", values="value")
        return table.loc[self.factors(), self.factors()]

    def corner(self) -> dict[str, float] | None:
        """The emptiest corner of the two codes: ``x``, ``y``, the nearest image's, ``row``, and ``distance`` in deviations."""
        table = self.tables["supports"]
        p, q = sorted((self.code, self.other), key=lambda code: list(self.codes()).index(code))
        found = table[(table["p"] == p) & (table["q"] == q)]
        if not len(found):
            return None
        one = found.iloc[0]
        point = (one["x"], one["y"]) if p == self.code else (one["y"], one["x"])
        near = self.tables["codes"].iloc[int(one["row"])][[f"code.{self.code}", f"code.{self.other}"]].to_numpy(float)
        facts = {"distance": float(one["distance"]), "row": int(one["row"])}
        return facts | {"x": float(point[0]), "y": float(point[1]), "near_x": float(near[0]), "near_y": float(near[1])}

    # what it was trained on

    def correlation(self) -> Correlation:
        """Under which correlation the subject was trained; none of models that were not trained here."""
        subject = self.found.get(self.subject)
        try:
            known = subject is not None and subject.there and not subject.model
            return correlation_of(subject.run().spec) if known else Correlation()
        except (OSError, ValueError):
            return Correlation()

    def together(self, a: str, b: str) -> pd.DataFrame:
        """How often each two values of two factors occur together in training: x, y, share, r; empty where nobody knows."""
        table = self.tables.get("together", pd.DataFrame(columns=sorted(COLUMNS["together"])))
        return table[(table["a"] == a) & (table["b"] == b)]

    # in words

    def called(self, beside: str = "") -> str:
        """What it is called: the subject, and the layer where that is no code; ``beside`` another, only by what differs."""
        parts = self.subject.split(",")
        name = ",".join(part for part in parts if part not in beside.split(",")) or self.subject
        short = short_layers([layer for layer in self.param.layer.objects if layer]).get(self.layer, self.layer)
        return name if self.decodes() else f"{name}, {short}"

    def chance(self) -> float:
        """The mean accuracy of whoever always says the most frequent value of each factor."""
        numbers = self.tables["images"][[f"number.{f}" for f in self.factors()]]
        return float(np.mean([numbers[c].value_counts(normalize=True).max() for c in numbers]))

    def title(self) -> str:
        """What the matrix says, in few words."""
        d, told = self.score("disentanglement"), self.score("informativeness")
        if told < self.chance() + 0.05:
            return f"Codes say hardly anything of the factors: accuracy {told:.2f}, chance {self.chance():.2f}"
        return (
            next((words for least, words in GRADES if d >= least), "Every code mixes factors") + f": DCI-D {d:.2f}, I {told:.2f}"
        )

    def finding(self) -> str:
        """What the codes of the factors that go together say of each; else of the factor that is looked for."""
        pairs = [p for p in self.correlation().pairs if set(p) <= set(self.factors())]
        if not pairs:
            code = self.best(self.factor)
            return f"Most of {self.factor} is in code {code}: {_percent(self.says(code, self.factor))} of its entropy."
        a, b = next((p for p in pairs if self.factor in p), pairs[0])
        one, other = self.best(a), self.best(b)
        told = f"code {one} says {_percent(self.says(one, a))} (and {_percent(self.says(one, b))} of {b})"
        if one == other:
            return f"{a} and {b} have the same best code: {told}."
        more = f"code {other} says {_percent(self.says(other, b))} (and {_percent(self.says(other, a))} of {a})"
        return f"Of {a}, {told}; of {b}, {more}."

    def trained(self) -> str:
        """Under which correlation it was trained, in words; empty of models that were not."""
        subject, how = self.found.get(self.subject), self.correlation()
        if subject is None or subject.model or not subject.there:
            return ""
        if not how.pairs:
            return "trained on factors that do not go together"
        said = ", ".join(f"{a} and {b}" for a, b in how.pairs[:2])
        said += f", {len(how.pairs) - 2} more pairs" if len(how.pairs) > 2 else ""
        facts = ", ".join(filter(None, [self._strength(*how.pairs[0]), f"σ {how.said}", how.besides]))
        return f"trained where {said} go together ({facts})"

    def _strength(self, a: str, b: str) -> str:
        table = self.together(a, b)
        return f"correlation {table['r'].iloc[0]:.2f}" if len(table) else ""

    def remarks(self) -> list[str]:
        """What the reader has to know, a sentence each."""
        subject = self.found.get(self.subject)
        if subject is None:
            return []
        if not self.judged():
            if self.trouble:
                return []
            on = f" on {next(words for words, key in WHERE.items() if key == self.where)}" if self.correlation().pairs else ""
            return [f"{self.subject}, {self.layer}, was not judged{on} yet."]
        said = []
        if self.about("repeats") > 0:
            said.append(f"{_percent(self.about('repeats'))} of these images are there twice, which flatters informativeness.")
        warned = self.tables["suite"]["warnings"].iloc[0]
        if "correlated" in warned:
            said.append(f"{warned[0].upper()}{warned[1:]}.".replace("..", "."))
        return said

    def left_out(self) -> str:
        """That weights are random, and how many dimensions of a wide layer are not shown; empty where neither is so."""
        subject = self.found[self.subject]
        random = "Random weights. " if subject.model and "." not in subject.model else ""
        d, shown, trees = (int(self.about(what)) for what in ("d", "shown", "trees"))
        fewer = f"; DCI by {trees} trees a class instead of 100" if trees < 100 else ""
        left = f"Of {d} dimensions the {shown} that say most are shown, {d - shown} left out{fewer}." if d > shown else ""
        return random + left

    def without_traversals(self) -> str:
        """Why nothing can be turned here; empty where it can."""
        if not self.judged() or self.decodes():
            return ""
        at = self._first_layer()
        if at == self.layer != "backbone":
            return "No traversals: there are more codes than anybody would turn."
        if at != "backbone":
            return f"No traversals at {self.layer}: the decoder draws from {at}. Choose that layer."
        return "No traversals: this network has no decoder. Autoencoders have (BetaVAE and its kin)."

    # judging

    def kept(self) -> list[str]:
        """The files of all that was judged of the subject, and when; another list where something new was kept."""
        if self.subject not in self.found:
            return []
        files = (self.found[self.subject].path / "tables" / "factored").glob("*/*/*/about.parquet")
        return sorted(f"{file} {file.stat().st_mtime_ns}" for file in files)


def judging(subject: Subject, *, layer: str, where: str) -> Iterator[Any]:
    """Judges a layer of a subject, and keeps the tables; yields how far it has come."""
    images = subject.images() if subject.images else None
    if subject.model and images is None:
        from workbench.data.stage import scenes

        images = scenes(SCENES)
    yield from factor_steps(subject.run(images), images, layer=layer, where=where)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _written(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)
