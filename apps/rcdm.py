"""What a representation still knows. ``panel serve apps/rcdm.py --args runs/mine runs/other --data garments``"""

import argparse

from workbench.cli.typed import images_for
from workbench.panels import WhatItKnows, page

parser = argparse.ArgumentParser()
parser.add_argument("given", nargs="*", help="runs with denoisers (`workbench denoise RUN`), or folders of runs")
parser.add_argument("--data", help="images to choose from: a data set or a folder; by default held-out ones of each run's kind")
args = parser.parse_args()
images = images_for(args.data, args.given)
page(WhatItKnows(args.given, images=images), title="What does it know?").servable()
