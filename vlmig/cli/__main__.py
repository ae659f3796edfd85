"""``vlmig`` and ``python -m vlmig.cli``."""

import sys


def start() -> int:
    """Run the command line; Ctrl-C while it is imported shows no traceback either."""
    try:
        from vlmig.cli.main import main

        return main()
    except KeyboardInterrupt:
        print("vlmig: interrupted; run the same command again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(start())
