"""The command line with FSDP on the CPU: accelerate shards on accelerators only, torch itself
anywhere."""

from __future__ import annotations

import os
import sys

os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"}

from accelerate import PartialState
from accelerate.utils import DistributedType

from vlmig.cli.main import main

PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
sys.exit(main(sys.argv[1:]))
