"""`python -m mien` runs the command line."""

from mien.cli.main import main

main()
