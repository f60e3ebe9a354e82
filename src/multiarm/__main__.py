"""`python -m multiarm`."""

from multiarm.cli import main

main()
