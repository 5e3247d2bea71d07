"""`python -m app`, in a checkout."""

import sys

from app.main import main

sys.exit(main())
