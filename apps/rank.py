"""Choosing without labels: a measure against a probe over many runs. ``panel serve apps/rank.py --args sweeps/mine``"""

import sys

from workbench.panels import Choosing, page

page(Choosing(sys.argv[1:]), title="Choosing without labels").servable()
