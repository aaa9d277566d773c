"""What is said while training runs: through ``logging``, once, not once per process."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning_solver.sharding import is_first_process

logger = logging.getLogger("lightning_solver")


def report(headline: str, lines: Sequence[str] = ()) -> None:
    """Log a warning with further lines below it, on the first process only."""
    if is_first_process():
        logger.warning("\n".join([headline, *(f"  {line}" for line in lines)]))
