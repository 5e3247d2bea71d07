"""How Farboot starts when it is installed.

The project's modules import each other flatly (`from probes.source import Source`). An installed Farboot keeps them in
one private directory, this package's, so that names like `app` do not lie bare in site-packages; this puts that
directory first on the import path. In a checkout, which is installed editable, the directory is the checkout itself.
"""

import sys
from pathlib import Path


def main() -> None:
    """Run Farboot's command line."""
    here = Path(__file__).resolve().parent
    root = here if (here / "app").is_dir() else here.parents[1]
    sys.path.insert(0, str(root))
    from app.main import main as run

    sys.exit(run())
