"""Where to cut. ``panel serve apps/projector.py --args runs/mine timm:resnet18 --out models --data garments``"""

import argparse

from workbench.cli.typed import images_for
from workbench.panels import WhereToCut, page

parser = argparse.ArgumentParser()
parser.add_argument("given", nargs="*", help="runs, folders of runs, models of timm (timm:NAME)")
parser.add_argument("--out", default="runs", help="folder in which timm's models and their tables are kept")
parser.add_argument("--data", help="what to probe with: a data set or a folder; by default each run's own, else garments")
args = parser.parse_args()
images = images_for(args.data, args.given)
page(WhereToCut(args.given, out=args.out, images=images), title="Where to cut").servable()
