"""What is shown of a representation as one picture to take away: which images, what their samples say, and the samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from workbench.figures import theme
from workbench.panels.know_drawing import FRAMES, png_of
from workbench.panels.know_state import KnowState

__all__ = ["sheet_of"]

CELL, GAP, MARGIN = 96, 6, 32  # pixels: an image, between two, around all
STEP = CELL + GAP
TITLE, TEXT = 30, 21  # pixels: sizes of letters
LINE = 1.45  # height of a line of text, by that of its letters
ACROSS = 8  # samples in a line of the first view


class Piece(NamedTuple):
    """An image of a side, or none yet, or words; and where its cell is from the side's top left."""

    what: np.ndarray | str | None
    left: int
    top: int


def sheet_of(state: KnowState) -> bytes:
    """Returns the samples that are shown, both sides beside each other, as PNG; what was not drawn yet is left out."""
    from PIL import Image, ImageDraw

    above = [(TITLE, theme.INK, _title(state)), (TEXT, theme.QUIET, _about(state))]
    sides = {side: _pieces(state, side) for side in state.shown()}
    heads = {side: [getattr(state, side), _said(state, side)] for side in sides}
    wide = {side: max(*(_right(p) for p in sides[side]), *(_width(words, TEXT) for words in heads[side])) for side in sides}
    width = max(sum(wide.values()) + MARGIN * (len(sides) - 1), *(_width(words, size) for size, _, words in above)) + 2 * MARGIN
    top = MARGIN + sum(_line(size) for size, _, _ in above) + TEXT
    below = top + 2 * _line(TEXT) + GAP
    height = below + max(piece.top + CELL for pieces in sides.values() for piece in pieces) + MARGIN
    picture = Image.new("RGB", (width, height), theme.PAPER)
    draw, at = ImageDraw.Draw(picture), MARGIN
    for size, colour, words in above:
        draw.text((MARGIN, at), words, fill=colour, font=_font(size))
        at += _line(size)
    left = MARGIN
    for i, (side, pieces) in enumerate(sides.items()):
        for line, (words, colour) in enumerate(zip(heads[side], (theme.PAIR[i], theme.QUIET), strict=True)):
            draw.text((left, top + line * _line(TEXT)), words, fill=colour, font=_font(TEXT))
        for what, x, y in pieces:
            if isinstance(what, str):
                draw.text((left + x, below + y + CELL // 2), what, fill=theme.INK, font=_font(TEXT), anchor="lm")
            elif what is not None:
                picture.paste(_cell(what), (left + x, below + y))
        left += wide[side] + MARGIN
    return png_of(np.asarray(picture))


def _title(state: KnowState) -> str:
    first, second = (
        f"image {state.called(one)}" if isinstance(one, int) else "an image dropped in" for one in (state.first, state.second)
    )
    told = {
        "samples": f"samples of {first}",
        "between": f"interpolation from {first} to {second}",
        "dimensions": f"common dimensions of {first}, second {second}",
    }
    return f"{state.subject}: {told[state.view]}"


def _about(state: KnowState) -> str:
    """How images were drawn, and how many of them were not yet."""
    said = f"seed {state.seed}, {state.steps} steps, guidance {state.guidance:g}"
    said += f", condition annealing {state.annealing:g}" if state.annealing else ""
    total = len({(row.condition, i) for side in state.shown() for row in state.rows(side) for i in range(state.many())})
    missing = len(state.wanted())
    return f"{said}; unfinished, {total - missing} of {total} images" if missing else said


def _said(state: KnowState, side: str) -> str:
    """What the samples of the first image say, as in the title of the page."""
    told = state.told_rank(side)
    return "" if told is None else "the first image's " * (state.view == "between") + told


def _pieces(state: KnowState, side: str) -> list[Piece]:
    """The images of a side in rows and columns, with what these are called."""
    rows = [[None if one is None else one.pixels for one in state.of(row.condition)] for row in state.rows(side)]
    first, second = state.studio.source(state.first), state.studio.source(state.second)
    if state.view == "samples":
        own = [Piece(first, 0, 0)]
        return own + _grid([rows[0][i : i + ACROSS] for i in range(0, len(rows[0]), ACROSS)], CELL + 3 * GAP)
    if state.view == "between":
        names = ["first", *(f"{at}/{FRAMES - 1}" for at in range(1, FRAMES - 1)), "second"]
        middle = [at * STEP + (CELL - _width(name, TEXT)) // 2 for at, name in enumerate(names)]
        heads = [Piece(name, left, (TEXT - CELL) // 2) for name, left in zip(names, middle, strict=True)]
        ends = [first, *[None] * (FRAMES - 2), second]
        return heads + _grid([ends, *map(list, zip(*rows, strict=True))], top=_line(TEXT))
    rows = [[first, second], *rows]
    words = ["the image and the second", *(row.words for row in state.rows(side))]
    own = [Piece(word, 0, i * STEP) for i, word in enumerate(words)]
    return own + _grid(rows, max(_width(word, TEXT) for word in words) + 3 * GAP)


def _grid(rows: Sequence[Sequence[np.ndarray | None]], left: int = 0, *, top: int = 0) -> list[Piece]:
    places = ((image, i, j) for i, row in enumerate(rows) for j, image in enumerate(row))
    return [Piece(image, left + j * STEP, top + i * STEP) for image, i, j in places]


def _right(piece: Piece) -> int:
    return piece.left + (_width(piece.what, TEXT) if isinstance(piece.what, str) else CELL)


def _cell(image: np.ndarray) -> object:
    """An image in the size of a cell: its pixels as squares where it is smaller, else resized."""
    from PIL import Image

    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
    how = Image.Resampling.NEAREST if max(image.shape[:2]) <= CELL else Image.Resampling.LANCZOS
    return picture.resize((CELL, CELL), how)


def _font(size: int) -> object:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _width(words: str, size: int) -> int:
    return round(_font(size).getlength(words))


def _line(size: int) -> int:
    return round(LINE * size)
