"""`python -m nstcore`."""

import sys

from .cli import main

sys.exit(main())
