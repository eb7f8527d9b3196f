"""Dimensional collapse: theory, runs, live training. ``panel serve apps/collapse.py --args runs/mine runs/other``"""

import sys

from workbench.panels import Collapse, page

page(Collapse(sys.argv[1:]), title="Dimensional collapse").servable()
