"""Controls below a figure: in a running notebook only, never on the page.

A page shows what is stored, and a stored control would do nothing there. So `make
notebooks` and the tests set REPTILE_CONTROLS=off, and `show` then shows nothing.
"""

import os

from IPython.display import display
from ipywidgets import Widget

SWITCH = "REPTILE_CONTROLS"


def show(control: Widget) -> None:
    """Show a control, unless the environment says that nobody is there to use it."""
    if os.environ.get(SWITCH) != "off":
        display(control)  # type: ignore[no-untyped-call]
