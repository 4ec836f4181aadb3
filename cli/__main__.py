"""`python -m spectra.cli`: the command line in the Python that is running, wherever its programs are."""

import sys

from spectra.cli.app import main

sys.exit(main())
