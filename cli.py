"""The same entry as `vfn`, for `torchrun ... cli.py train ...`."""

from vfn.cli import main

main()
