"""`python -m reptile_lib`."""

import sys

from reptile_lib.cli import main

sys.exit(main())
