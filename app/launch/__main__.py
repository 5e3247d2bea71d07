"""`python -m farboot`."""

from . import main

main()
