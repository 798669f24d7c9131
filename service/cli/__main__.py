"""`python -m service.cli` is `flexdb`."""

from service.cli import main

main()
