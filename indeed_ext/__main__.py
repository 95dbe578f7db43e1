"""``python -m indeed_ext`` prints what ``indeed info`` prints; with arguments it is the ``indeed`` command."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:] or ["info"]))
