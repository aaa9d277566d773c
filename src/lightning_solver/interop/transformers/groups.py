"""Which parameters a ``Trainer`` does not decay."""

from __future__ import annotations

from lightning_solver.rule import Rule

NOT_DECAYED = (
    Rule(
        name="no_decay_names",
        regex=r"(?i)bias|layernorm|rmsnorm|(?:^|[._])norm(?:$|\.)",
        weight_decay=0.0,
        unmatched="allow",
    ),
    Rule(name="no_decay_layer_norms", inside="torch.nn.LayerNorm", weight_decay=0.0, unmatched="allow"),
)
"""By the whole name, in any case of its letters; and everything inside a ``LayerNorm``. Other norms are decayed."""
