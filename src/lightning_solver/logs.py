"""What is said while training runs: through ``logging``, once, not once per process."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

logger = logging.getLogger("lightning_solver")


def report(headline: str, lines: Sequence[str] = ()) -> None:
    """Log a warning with further lines below it, on the first process only."""
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    logger.warning("\n".join([headline, *(f"  {line}" for line in lines)]))
