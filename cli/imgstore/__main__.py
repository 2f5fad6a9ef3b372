"""`python -m imgstore`."""

import sys

from imgstore.app import main

sys.exit(main())
