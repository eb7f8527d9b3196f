"""What is shown of a representation as one picture to take away: sources, samples and their layers' names."""

from collections.abc import Sequence

import numpy as np

from workbench.figures import theme
from workbench.panels.know_drawing import png_of
from workbench.panels.know_state import KnowState

__all__ = ["sheet_of"]

CELL, GAP, MARGIN, LINE = 64, 4, 16, 26  # pixels: an image, between two, around all, a line of text
ACROSS = 8  # samples in a line of the first view
WORDS = 190  # pixels for what a row is called


def sheet_of(state: KnowState) -> bytes:
    """Returns the samples that are shown, both sides beside each other, as PNG; what was not drawn yet is grey."""
    from PIL import Image, ImageDraw

    blocks = [_block(state, side) for side in state.shown()]
    width = sum(block.shape[1] for block in blocks) + 2 * MARGIN * len(blocks)
    height = max(block.shape[0] for block in blocks) + 2 * MARGIN + 2 * LINE
    sheet = np.full((height, width, 3), 255, np.uint8)
    names, left = [], MARGIN
    for side, block in zip(state.shown(), blocks, strict=True):
        names.append((left, getattr(state, side)))
        top = MARGIN + 2 * LINE
        sheet[top : top + block.shape[0], left : left + block.shape[1]] = block
        left += block.shape[1] + 2 * MARGIN
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    _write(draw, (MARGIN, MARGIN), _about(state), width - 2 * MARGIN, colour=theme.QUIET)
    for (x, name), block in zip(names, blocks, strict=True):
        _write(draw, (x, MARGIN + LINE), name, block.shape[1], colour=theme.INK)
        if state.view == "dimensions":
            for i, row in enumerate(state.rows("left")):
                _write(draw, (x, MARGIN + 2 * LINE + i * (CELL + GAP) + CELL // 2 - 8), row.words, WORDS, colour=theme.INK)
    return png_of(np.asarray(picture))


def _about(state: KnowState) -> str:
    drawn = f"seed {state.seed}, {state.steps} steps, guidance {state.guidance:g}"
    return f"{state.subject}: {drawn}" + (f", annealing {state.annealing:g}" if state.annealing else "")


def _block(state: KnowState, side: str) -> np.ndarray:
    """The images of a side in rows and columns."""
    rows = [[None if one is None else one.pixels for one in state.of(row.condition)] for row in state.rows(side)]
    first = state.studio.source(state.first)
    if state.view == "samples":
        line, own = rows[0], CELL + 3 * GAP
        block = _grid([line[i : i + ACROSS] for i in range(0, len(line), ACROSS)])
        return np.concatenate([_beside(_grid([[first]]), block.shape[0], own), block], 1)
    if state.view == "between":
        ends = [first, *[False] * (len(rows) - 2), state.studio.source(state.second)]
        return _grid([ends, *map(list, zip(*rows, strict=True))])
    block = _grid(rows)
    return np.concatenate([_beside(np.full((1, 1, 3), 255, np.uint8), block.shape[0], WORDS), block], 1)


def _grid(rows: Sequence[Sequence[np.ndarray | bool | None]]) -> np.ndarray:
    """Images in rows; None is grey, False is empty."""
    step = CELL + GAP
    grid = np.full((len(rows) * step - GAP, max(map(len, rows)) * step - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            if image is not False:
                grid[i * step : i * step + CELL, j * step : j * step + CELL] = 225 if image is None else _cell(image)
    return grid


def _cell(image: np.ndarray) -> np.ndarray:
    """An image in the size of a cell: its pixels as squares where it is smaller, else resized."""
    from PIL import Image

    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
    how = Image.Resampling.NEAREST if max(image.shape[:2]) <= CELL else Image.Resampling.LANCZOS
    return np.asarray(picture.resize((CELL, CELL), how))


def _beside(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image at the top left of a white field."""
    field = np.full((height, width, 3), 255, np.uint8)
    field[: image.shape[0], : image.shape[1]] = image
    return field


def _write(draw: object, at: tuple[int, int], words: str, width: int, *, colour: str) -> None:
    """Writes words, smaller where there is little room."""
    from PIL import ImageFont

    for size in range(16, 8, -1):
        font = ImageFont.load_default(size)
        if draw.textlength(words, font) <= width:
            break
    draw.text(at, words, fill=colour, font=font)
