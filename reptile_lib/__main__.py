"""`python -m reptile_lib`."""

import sys

from reptile_lib.runs.cli import main

sys.exit(main())
