"""What ``make proof`` adds: tests that take long (mark ``proof``), and others with bigger numbers
(mark ``scaled``)."""

from __future__ import annotations

import os

PROOF = bool(os.environ.get("VLMIG_PROOF"))
