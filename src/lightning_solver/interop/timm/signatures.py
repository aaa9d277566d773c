"""The arguments of timm's own optimisers, after the parameters, in order."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_solver.interop.optimizers import TORCH

_OWN: dict[str, str] = {
    "timm.optim.AdaBelief": "lr betas eps weight_decay amsgrad decoupled_decay fixed_decay rectify "
    "degenerated_to_sgd foreach",
    "timm.optim.Adafactor": "lr eps eps_scale clip_threshold decay_rate betas weight_decay scale_parameter "
    "warmup_init min_dim_size_to_factor caution",
    "timm.optim.Adahessian": "lr betas eps weight_decay hessian_power update_each n_samples avg_conv_kernel",
    "timm.optim.AdafactorBigVision": "lr min_dim_size_to_factor decay_rate decay_offset beta2_cap momentum "
    "momentum_dtype eps weight_decay clipping_threshold unscaled_wd caution corrected_weight_decay",
    "timm.optim.AdamP": "lr betas eps weight_decay delta wd_ratio nesterov caution",
    "timm.optim.Adan": "lr betas eps weight_decay no_prox caution foreach",
    "timm.optim.AdamWLegacy": "lr betas eps weight_decay amsgrad caution corrected_weight_decay maximize "
    "foreach capturable clipping_threshold",
    "timm.optim.Adopt": "lr betas eps clip_exp weight_decay decoupled corrected_weight_decay caution foreach "
    "maximize capturable differentiable",
    "timm.optim.kron.Kron": "lr momentum weight_decay preconditioner_update_probability max_size_triangular "
    "min_ndim_triangular memory_save_mode momentum_into_precond_update precond_lr precond_init_scale "
    "mu_dtype precond_dtype decoupled_decay corrected_weight_decay flatten flatten_start_dim "
    "flatten_end_dim stochastic_weight_decay deterministic",
    "timm.optim.Lamb": "lr bias_correction betas eps weight_decay grad_averaging max_grad_norm trust_clip "
    "always_adapt caution decoupled_decay corrected_weight_decay foreach",
    "timm.optim.LaProp": "lr betas eps weight_decay caution corrected_weight_decay foreach",
    "timm.optim.Lars": "lr momentum dampening weight_decay nesterov trust_coeff eps trust_clip always_adapt foreach",
    "timm.optim.Lion": "lr betas weight_decay caution corrected_weight_decay maximize foreach",
    "timm.optim.MADGRAD": "lr momentum weight_decay eps decoupled_decay",
    "timm.optim.Mars": "lr betas eps weight_decay gamma mars_type optimize_1d lr_1d_factor betas_1d caution",
    "timm.optim.Muon": "lr weight_decay momentum nesterov ns_steps ns_coefficients eps safety_factor "
    "adjust_lr_fn conv_mode normalize_spatial adamw_lr fallback_lr_scale betas algo scale_eps capturable "
    "verbose",
    "timm.optim.NAdamLegacy": "lr betas eps weight_decay schedule_decay",
    "timm.optim.NAdamW": "lr betas eps weight_decay caution corrected_weight_decay maximize foreach capturable "
    "clipping_threshold",
    "timm.optim.NvNovoGrad": "lr betas eps weight_decay grad_averaging amsgrad decoupled_decay corrected_weight_decay",
    "timm.optim.RAdamLegacy": "lr betas eps weight_decay",
    "timm.optim.SGDW": "lr momentum dampening weight_decay nesterov caution corrected_weight_decay maximize "
    "foreach differentiable",
    "timm.optim.RMSpropTF": "lr alpha eps weight_decay momentum centered decoupled_decay corrected_weight_decay "
    "lr_in_momentum caution foreach",
    "timm.optim.SGDP": "lr momentum dampening weight_decay nesterov eps delta wd_ratio caution",
}

SIGNATURES: Mapping[str, tuple[str, ...]] = {**TORCH, **{name: tuple(names.split()) for name, names in _OWN.items()}}
"""Class -> its arguments; torch's by short name."""
