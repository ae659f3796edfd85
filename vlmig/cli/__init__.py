"""The command line: one file per command, each with ``add_options`` and ``run``."""
