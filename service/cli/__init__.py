"""The command line `flexdb`.

Commands import heavy modules when they run, so that `--help` is instant.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script; ends the process with the command's exit code."""
    from service.cli.commands import run

    run()


__all__ = ["main"]
