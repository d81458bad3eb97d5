"""`python -m vfn`."""

from vfn.cli import main

main()
