"""The same entry as `vfn`, for a clone that is not installed: `python cli.py train ...`."""

from vfn.cli import main

main()
