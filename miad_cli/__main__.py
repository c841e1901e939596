"""`python -m miad_cli` is `miad`."""

from miad_cli.app import main

main()
