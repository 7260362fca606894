"""``python -m tuncer`` is the command ``tuncer``."""

import sys

from tuncer.cli import main

sys.exit(main())
