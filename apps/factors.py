"""Which code holds which factor. ``panel serve apps/factors.py --args runs/mine runs/other timm:resnet18 --data scenes``"""

import argparse

from workbench.cli.typed import images_for
from workbench.panels import Factors, page

parser = argparse.ArgumentParser()
parser.add_argument("given", nargs="*", help="runs, folders of runs, models of timm (timm:NAME); the first two are shown first")
parser.add_argument("--out", default="runs", help="folder in which timm's models are kept")
parser.add_argument(
    "--data", help="what all are judged on: a data set or a folder; by default the uniform grid of each run's own"
)
args = parser.parse_args()
images = images_for(args.data, args.given)
page(Factors(args.given, out=args.out, images=images), title="Factors of the world").servable()
