"""The optimisers that timm 1.0.31 knows by name: their classes, and what timm gives them of its own accord."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Registered:
    """An optimiser that timm knows by name.

    Args:
        name: Its class: a short name for one of torch's, a dotted path for others.
        given: Arguments that timm gives it where the config does not.
        takes: Which of ``eps``, ``momentum`` and ``betas`` timm hands on to it; the others it drops.
    """

    name: str
    given: Mapping[str, Any]
    takes: frozenset[str]


_TAKES: dict[str, str] = {
    **{"SGD": "momentum", "Adam": "eps betas", "AdamW": "eps betas", "NAdam": "eps betas", "RAdam": "eps betas"},
    **{"Adamax": "eps betas", "Adadelta": "eps", "Adagrad": "eps", "RMSprop": "eps momentum"},
    **{"timm.optim.AdaBelief": "eps betas", "timm.optim.Adafactor": "eps betas", "timm.optim.Adahessian": "eps betas"},
    **{
        "timm.optim.AdafactorBigVision": "eps momentum",
        "timm.optim.AdamP": "eps betas",
        "timm.optim.Adan": "eps betas",
    },
    **{"timm.optim.AdamWLegacy": "eps betas", "timm.optim.Adopt": "eps betas", "timm.optim.kron.Kron": "momentum"},
    **{"timm.optim.Lamb": "eps betas", "timm.optim.LaProp": "eps betas", "timm.optim.Lars": "eps momentum"},
    **{"timm.optim.Lion": "betas", "timm.optim.MADGRAD": "eps momentum", "timm.optim.Mars": "eps betas"},
    **{
        "timm.optim.Muon": "eps momentum betas",
        "timm.optim.NAdamLegacy": "eps betas",
        "timm.optim.NAdamW": "eps betas",
    },
    **{"timm.optim.NvNovoGrad": "eps betas", "timm.optim.RAdamLegacy": "eps betas", "timm.optim.SGDW": "momentum"},
    **{"timm.optim.RMSpropTF": "eps momentum", "timm.optim.SGDP": "eps momentum"},
    **{"apex.optimizers.FusedSGD": "momentum", "apex.optimizers.FusedAdam": "eps betas"},
    **{"apex.optimizers.FusedLAMB": "eps betas", "apex.optimizers.FusedNovoGrad": "eps betas"},
    **{f"bitsandbytes.optim.SGD{bits}": "momentum" for bits in ("", "8bit")},
    **{
        f"bitsandbytes.optim.{name}{bits}": "eps betas"
        for name in ("Adam", "AdamW", "AdEMAMix")
        for bits in ("", "8bit")
    },
    **{f"bitsandbytes.optim.Lion{bits}": "betas" for bits in ("", "8bit")},
}
"""Class -> what timm hands on to it."""

CLASSES = tuple(_TAKES)
"""The classes, torch's by short name."""

_CAUTIOUS = {"caution": True}
_CORRECTED = {"corrected_weight_decay": True}
_BOTH = {**_CAUTIOUS, **_CORRECTED}
_NESTEROV = {"nesterov": True}
_DECOUPLED = {"decoupled_decay": True}
_PROJECTED = {"wd_ratio": 0.01, **_NESTEROV}

_TORCH: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {"sgd": _NESTEROV, "nesterov": _NESTEROV, "momentum": {"nesterov": False}},
    "RAdam": {"radam": {}, "radamw": {"decoupled_weight_decay": True}},
    "Adagrad": {"adagrad": {"eps": 1e-8}},
    "RMSprop": {"rmsprop": {"alpha": 0.9}},
    **{name: {name.lower(): {}} for name in ("Adam", "AdamW", "NAdam", "Adamax", "Adadelta")},
}
_OWN: dict[str, dict[str, dict[str, Any]]] = {
    "AdaBelief": {"adabelief": {"rectify": False}, "radabelief": {"rectify": True}},
    "Adafactor": {"adafactor": {}, "cadafactor": {**_CAUTIOUS, "betas": (0.9, 0.999)}},
    "AdafactorBigVision": {
        **{"adafactorbv": {}, "cadafactorbv": _CAUTIOUS},
        **{"adafactorbvc": _CORRECTED, "cadafactorbvc": _BOTH},
    },
    "Adahessian": {"adahessian": {}},
    "AdamP": {"adamp": _PROJECTED, "cadamp": {**_PROJECTED, **_CAUTIOUS}},
    "AdamWLegacy": {"adamwlegacy": {}, "cadamw": _CAUTIOUS, "adamc": _CORRECTED, "cadamc": _BOTH},
    "Adan": {
        **{"adan": {"no_prox": False}, "cadan": {**_CAUTIOUS, "no_prox": False}},
        **{"adanw": {"no_prox": True}, "cadanw": {**_CAUTIOUS, "no_prox": True}},
    },
    "Adopt": {
        **{"adopt": {}, "cadopt": _CAUTIOUS, "adoptw": {"decoupled": True}},
        **{"cadoptw": {"decoupled": True, **_CAUTIOUS}, "adoptc": {"decoupled": True, **_CORRECTED}},
        **{"cadoptc": {"decoupled": True, **_BOTH}},
    },
    "kron.Kron": {"kron": {}, "kronw": _DECOUPLED, "kronc": {**_DECOUPLED, **_CORRECTED}},
    "Lamb": {
        **{"lamb": {}, "lambc": {"trust_clip": True}, "lambw": _DECOUPLED},
        **{"lambcw": {"trust_clip": True, **_DECOUPLED}, "lambcd": {**_DECOUPLED, **_CORRECTED}},
        **{"clamb": _CAUTIOUS, "clambw": {**_CAUTIOUS, **_DECOUPLED}},
    },
    "LaProp": {"laprop": {}, "claprop": _CAUTIOUS, "lapropc": _CORRECTED},
    "Lars": {
        **{"lars": {}, "larc": {"trust_clip": True}},
        **{"nlars": _NESTEROV, "nlarc": {**_NESTEROV, "trust_clip": True}},
    },
    "Lion": {"lion": {}, "clion": _CAUTIOUS, "lionc": _CORRECTED, "clionc": _BOTH},
    "MADGRAD": {"madgrad": {}, "madgradw": _DECOUPLED},
    "Mars": {"mars": {}, "cmars": _CAUTIOUS},
    "Muon": {
        **{"muon": {}, "nmuon": _NESTEROV},
        **{"adamuon": {"algo": "adamuon"}, "nadamuon": {"algo": "adamuon", **_NESTEROV}},
    },
    "NAdamLegacy": {"nadamlegacy": {}},
    "NAdamW": {"nadamw": {}, "cnadamw": _CAUTIOUS, "nadamc": _CORRECTED, "cnadamc": _BOTH},
    "NvNovoGrad": {"novograd": {}, "novogradw": _DECOUPLED, "novogradc": {**_DECOUPLED, **_CORRECTED}},
    "RAdamLegacy": {"radamlegacy": {}},
    "RMSpropTF": {
        **{"rmsproptf": {"alpha": 0.9}, "crmsproptf": {"alpha": 0.9, **_CAUTIOUS}},
        **{"rmsproptfw": {"alpha": 0.9, **_DECOUPLED}, "rmsproptfc": {"alpha": 0.9, **_DECOUPLED, **_CORRECTED}},
    },
    "SGDP": {"sgdp": _NESTEROV, "csgdp": {**_NESTEROV, **_CAUTIOUS}},
    "SGDW": {
        **{"sgdw": _NESTEROV, "nesterovw": _NESTEROV, "csgdw": {**_NESTEROV, **_CAUTIOUS}},
        **{"sgdc": {**_NESTEROV, **_CORRECTED}, "csgdc": {**_NESTEROV, **_BOTH}},
    },
}
_APEX: dict[str, dict[str, dict[str, Any]]] = {
    "FusedSGD": {"fusedsgd": _NESTEROV},
    "FusedAdam": {"fusedadam": {"adam_w_mode": False}, "fusedadamw": {"adam_w_mode": True}},
    "FusedLAMB": {"fusedlamb": {}},
    "FusedNovoGrad": {"fusednovograd": {"betas": (0.95, 0.98)}},
}
_BITS: dict[str, dict[str, dict[str, Any]]] = {
    f"{name}{bits}": {f"bnb{name.lower()}{bits}": _NESTEROV if name == "SGD" else {}}
    for name in ("SGD", "Adam", "AdamW", "Lion", "AdEMAMix")
    for bits in ("", "8bit")
}

OPTIMIZERS: dict[str, Registered] = {
    name: Registered(f"{package}{cls}", given, frozenset(_TAKES[f"{package}{cls}"].split()))
    for package, classes in (
        ("", _TORCH),
        ("timm.optim.", _OWN),
        ("apex.optimizers.", _APEX),
        ("bitsandbytes.optim.", _BITS),
    )
    for cls, names in classes.items()
    for name, given in names.items()
}
"""Name -> optimiser."""
