"""Specifications to start from, as plain data."""

from __future__ import annotations

from typing import Any

from lightning_solver.spec import SolverSpec


def muon_adamw(
    lr: float = 1e-3, weight_decay: float = 0.1, *, betas: tuple[float, float] = (0.9, 0.95), **fields: Any
) -> SolverSpec:
    """Muon for the hidden matrices, AdamW for everything else: embeddings, heads, norms, biases, convolutions.

    Muon's updates are scaled to the size of AdamW's, so that one learning rate and one weight decay serve both (Liu et
    al. 2025, "Muon is Scalable for LLM Training"; Jordan et al. 2024). The plan tells which matrices Muon does not get.

    Args:
        lr: Learning rate of both.
        weight_decay: Weight decay of both, none on biases and norms.
        betas: Of AdamW.
        fields: Further fields of the specification, such as ``schedules``; ``rules`` come after the one for Muon.

    Raises:
        SolverError: A field that does not fit.

    Example:
        >>> muon_adamw(2e-3).rules[0].optimizer.name
        'Muon'
    """
    args = {"weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    muon = {"kind": "hidden", "name": "muon", "optimizer": {"name": "Muon", "args": args}}
    data = {
        "optimizer": {"name": "AdamW", "args": {"lr": lr, "betas": list(betas), "weight_decay": weight_decay}},
        **fields,
        "rules": [muon, *fields.get("rules", ())],
    }
    return SolverSpec.from_dict(data, "muon_adamw")
