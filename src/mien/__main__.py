"""`python -m mien` is `mien`."""

from mien.cli.main import main

main()
