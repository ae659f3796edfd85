"""``python -m vlmig.cli``."""

from vlmig.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
