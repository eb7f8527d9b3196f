"""Makes the embedded sample of Fashion-MNIST from the full set: 1,000 train and 200 test images of each class.

    python tools/embed_fashion_mnist.py [/usr/share/datasets/fashion-mnist]

The rows are drawn by a fixed seed and kept in the original order. The images become lossless mosaics of 100 columns, the
labels and the original rows a table, so that anyone can look at both without a line of code.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from workbench.data.fashion import DEBIAN, EMBEDDED, FILES, SIDE, read_idx

EACH = {"train": 1000, "test": 200}
COLUMNS = 100
SEED = 20171


def main(folder: Path) -> None:
    """Writes two mosaics and one table."""
    tables = []
    for split, each in EACH.items():
        pixels = read_idx(folder / f"{FILES[split]}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{FILES[split]}-labels-idx1-ubyte.gz")
        rng = np.random.default_rng(SEED)
        rows = np.sort(np.concatenate([rng.choice(np.flatnonzero(labels == c), each, replace=False) for c in range(10)]))
        tiles = pixels[rows].reshape(-1, COLUMNS, SIDE, SIDE).swapaxes(1, 2)  # rows, SIDE, COLUMNS, SIDE
        mosaic = Image.fromarray(tiles.reshape(-1, COLUMNS * SIDE))
        mosaic.save(EMBEDDED / f"fashion_mnist_{split}.png", optimize=True)
        tables.append(pd.DataFrame({"split": split, "row": rows, "label": labels[rows]}))
    pd.concat(tables).to_csv(EMBEDDED / "fashion_mnist.csv", index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN)
