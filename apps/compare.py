"""Two networks side by side. ``panel serve apps/compare.py --args runs/mine runs/other timm:resnet18 --data garments``"""

import argparse

from workbench.cli.typed import images_for
from workbench.panels import Compare, page

parser = argparse.ArgumentParser()
parser.add_argument("given", nargs="*", help="runs, folders of runs, models of timm (timm:NAME); the first two are shown first")
parser.add_argument("--out", default="runs", help="folder in which timm's models are kept")
parser.add_argument("--data", help="what both look at: a data set or a folder; by default the first run's held-out images")
args = parser.parse_args()
images = images_for(args.data, args.given)
page(Compare(args.given, out=args.out, images=images), title="Two networks side by side").servable()
