"""The optimiser classes of torch, and the order of their arguments."""

from __future__ import annotations

from collections.abc import Mapping

OPTIMIZERS: Mapping[str, str] = {
    "Adadelta": "lr rho eps weight_decay foreach capturable maximize differentiable",
    "Adafactor": "lr beta2_decay eps d weight_decay foreach maximize",
    "Adagrad": "lr lr_decay weight_decay initial_accumulator_value eps foreach maximize differentiable fused",
    "Adam": "lr betas eps weight_decay amsgrad foreach maximize capturable differentiable fused decoupled_weight_decay",
    "AdamW": "lr betas eps weight_decay amsgrad maximize foreach capturable differentiable fused",
    "Adamax": "lr betas eps weight_decay foreach maximize differentiable capturable",
    "ASGD": "lr lambd alpha t0 weight_decay foreach maximize differentiable capturable",
    "LBFGS": "lr max_iter max_eval tolerance_grad tolerance_change history_size line_search_fn",
    "Muon": "lr weight_decay momentum nesterov ns_coefficients eps ns_steps adjust_lr_fn",
    "NAdam": "lr betas eps weight_decay momentum_decay decoupled_weight_decay foreach maximize capturable "
    "differentiable",
    "RAdam": "lr betas eps weight_decay decoupled_weight_decay foreach maximize capturable differentiable",
    "RMSprop": "lr alpha eps weight_decay momentum centered capturable foreach maximize differentiable",
    "Rprop": "lr etas step_sizes capturable foreach maximize differentiable",
    "SGD": "lr momentum dampening weight_decay nesterov maximize foreach differentiable fused",
    "SparseAdam": "lr betas eps maximize",
}
"""Arguments after ``params``, in order."""


def short_name(path: str) -> str:
    """The short name of a class of torch; any other path as it is.

    Example:
        >>> short_name("torch.optim.adamw.AdamW"), short_name("optim.SGD"), short_name("timm.optim.Lamb")
        ('AdamW', 'SGD', 'timm.optim.Lamb')
    """
    owner, _, name = path.rpartition(".")
    of_torch = owner in ("", "optim", "opt") or owner == "torch.optim" or owner.startswith("torch.optim.")
    return name if of_torch and name in OPTIMIZERS else path
