"""The optimisers of ``TrainingArguments.optim``: their classes, and the arguments that a ``Trainer`` gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Notes, Settings

_TRUE = ("true", "1", "yes")


@dataclass(frozen=True)
class Given:
    """What ``TrainingArguments`` say to an optimiser.

    Args:
        name: Value of ``optim``.
        adam: ``betas`` and ``eps``.
        weight_decay: Weight decay.
        warmup_steps: ``warmup_steps`` as it is.
        own: ``optim_args``.
        notes: Takes notes.
    """

    name: str
    adam: dict[str, Any]
    weight_decay: float
    warmup_steps: Any
    own: Settings
    notes: Notes

    def numbers(self, **defaults: float) -> dict[str, Any]:
        """Numbers of ``optim_args``, each with its default."""
        return {key: float(self.own.number(key, default)) for key, default in defaults.items()}

    def some(self, *keys: str) -> dict[str, Any]:
        """Those of some numbers of ``optim_args`` that are given."""
        return {key: float(self.own.number(key)) for key in keys if key in self.own}

    def flag(self, key: str) -> dict[str, Any]:
        """A switch of ``optim_args``, if it is given."""
        return {key: str(self.own.take(key)).lower() in _TRUE} if key in self.own else {}

    def whole(self, key: str) -> dict[str, Any]:
        """A whole number of ``optim_args``, if it is given."""
        if key not in self.own:
            return {}
        number = self.own.number(key)
        if int(number) != number:
            raise SolverError(self.own.path(key), "must be a whole number", got=repr(number), do="correct it")
        return {key: int(number)}


Made = tuple[str, dict[str, Any]]
"""The class, and its arguments but for ``lr`` and ``weight_decay``."""


def _class(path: str, **more: Any) -> Callable[[Given], Made]:
    """A class that takes ``betas`` and ``eps``."""
    return lambda given: (path, {**given.adam, **more})


def _adafactor(_: Given) -> Made:
    return "transformers.optimization.Adafactor", {"scale_parameter": False, "relative_step": False}


def _of_torch(path: str, *numbers: str, flag: str | None = None) -> Callable[[Given], Made]:
    def make(given: Given) -> Made:
        if "weight_decay" in given.own:
            what = "has no effect, as in transformers: every group has the weight decay of TrainingArguments"
            given.own.ignore("weight_decay")
            given.notes.say(given.own.path("weight_decay"), what)
        return path, {**given.some(*numbers), **({} if flag is None else given.flag(flag))}

    return make


def _bits(given: Given) -> Made:
    """bitsandbytes: the class and the number of bits are in the name."""
    bits = {"optim_bits": 8 if "8bit" in given.name else 32}
    if bits["optim_bits"] == 8:
        what = "transformers keeps 32 bits for embeddings (GlobalOptimManager of bitsandbytes); that is not done here"
        given.notes.say("optim", what)
    if "rmsprop" in given.name:
        named = given.some("alpha", "eps", "momentum")
        return "bitsandbytes.optim.RMSprop", {**named, **given.flag("centered"), **bits}
    paged: dict[str, Any] = {**bits, "is_paged": "paged" in given.name}
    if "lion" in given.name:
        return "bitsandbytes.optim.Lion", {"betas": given.adam["betas"], **paged}
    if "ademamix" not in given.name:
        return "bitsandbytes.optim.AdamW", {**given.adam, **paged}
    beta1, beta2 = given.adam["betas"]
    betas = given.numbers(beta1=beta1, beta2=beta2, beta3=0.9999)
    more = {**given.numbers(alpha=5.0, eps=given.adam["eps"]), **given.whole("t_alpha"), **given.whole("t_beta3")}
    return "bitsandbytes.optim.AdEMAMix", {"betas": tuple(betas.values()), **more, **paged}


def _of_torchao(path: str) -> Callable[[Given], Made]:
    def make(given: Given) -> Made:
        more = {"block_size": 256, "bf16_stochastic_round": False}
        return path, {**more, **given.whole("block_size"), **given.flag("bf16_stochastic_round"), **given.adam}

    return make


def _grokadamw(given: Given) -> Made:
    numbers = {"alpha_init": 0.98, "lamb": 2.0, "gamma": 0.1}
    return "grokadamw.GrokAdamW", given.numbers(**numbers, grokking_signal_decay_rate=0.1, gradient_clipping=1.0)


def _schedule_free(given: Given) -> Made:
    kind = given.name.removeprefix("schedule_free_")
    path = {"adamw": "AdamWScheduleFree", "radam": "RAdamScheduleFree", "sgd": "SGDScheduleFree"}[kind]
    args = {} if kind == "sgd" else dict(given.adam)
    if kind != "radam":
        args["warmup_steps"] = given.warmup_steps
        if 0 < given.warmup_steps < 1:
            given.notes.say(
                "warmup_steps", "a share of the steps is handed to schedulefree as it is, as in transformers"
            )
    return f"schedulefree.{path}", {**args, **given.numbers(weight_lr_power=2.0, r=0.0)}


def _stable_adamw(given: Given) -> Made:
    args: dict[str, Any] = {"decouple_lr": False, "max_lr": None, "kahan_sum": None}
    for key in ("decouple_lr", "kahan_sum"):
        if key in given.own:
            args[key] = bool(given.own.take(key))
            if str(given.own.take(key)).lower() not in _TRUE:
                given.notes.say(given.own.path(key), "any text is true to transformers, this one too")
    return "optimi.StableAdamW", {**given.adam, **args, **given.some("max_lr")}


_BITS = (
    *("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"),
    *("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"),
    *("lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit"),
    *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
)

OPTIMIZERS: dict[str, Callable[[Given], Made]] = {
    "adamw_torch": _class("AdamW"),
    "adamw_torch_fused": _class("AdamW", fused=True),
    "adamw_torch_xla": _class("torch_xla.amp.syncfree.AdamW"),
    "adamw_torch_npu_fused": _class("torch_npu.optim.NpuFusedAdamW"),
    "adamw_apex_fused": _class("apex.optimizers.FusedAdam"),  # until release 5
    "adafactor": _adafactor,
    "adamw_torch_4bit": _of_torchao("torchao.optim.AdamW4bit"),
    "adamw_torch_8bit": _of_torchao("torchao.optim.AdamW8bit"),
    "sgd": _of_torch("SGD", "momentum", "dampening", flag="nesterov"),
    "adagrad": _of_torch("Adagrad", "lr_decay", "eps"),
    "rmsprop": _of_torch("RMSprop", "momentum", "alpha", "eps", flag="centered"),
    **dict.fromkeys(_BITS, _bits),
    "grokadamw": _grokadamw,
    **dict.fromkeys(("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"), _schedule_free),
    "stable_adamw": _stable_adamw,
}
"""Value of ``optim`` -> what a ``Trainer`` makes of it."""

_LOW_RANK = "it gives the matrices of some modules a projection of low rank, which groups here do not have"
_WITH_MODEL = "it takes the model itself and steps inside of the backward pass"
NOT_MAPPED: dict[str, str] = {
    **{f"galore_{name}": _LOW_RANK for name in ("adamw", "adamw_8bit", "adafactor")},
    **{f"galore_{name}_layerwise": _LOW_RANK for name in ("adamw", "adamw_8bit", "adafactor")},
    **dict.fromkeys(("apollo_adamw", "apollo_adamw_layerwise"), _LOW_RANK),
    **dict.fromkeys(("lomo", "adalomo"), _WITH_MODEL),
    "adamw_anyprecision": "its arguments are dtypes, which are no plain data",
}
"""Value of ``optim`` -> why it has no counterpart."""

MEMBERS = {
    **{"adamw_bnb": "adamw_bnb_8bit", "lion": "lion_32bit", "paged_adamw": "paged_adamw_32bit"},
    **{"paged_ademamix": "paged_ademamix_32bit", "paged_lion": "paged_lion_32bit"},
    **{"rmsprop_8bit": "rmsprop_bnb_8bit", "rmsprop_32bit": "rmsprop_bnb_32bit"},
}
"""Members of ``OptimizerNames``, in small letters, that are called otherwise than their value."""
