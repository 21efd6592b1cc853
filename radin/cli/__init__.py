"""The command line: its parser, its commands, what they read and the tables they print.

`radin.cli.main` is the entry point. May import every other room; nothing imports this one.
"""

from radin.cli.parser import main

__all__ = ["main"]
