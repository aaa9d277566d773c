"""``TrainingArguments``, as far as the schedule goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from lightning_solver.durations import exact
from lightning_solver.errors import SolverError
from lightning_solver.interop.base import Facts, Notes, Settings
from lightning_solver.interop.reading import Call, Name
from lightning_solver.interop.transformers.ask import Ask, Run
from lightning_solver.interop.transformers.fields import own_arguments, scheduler_name
from lightning_solver.interop.transformers.gradients import FIELDS as GRADIENTS
from lightning_solver.interop.transformers.gradients import accumulated, read_gradients
from lightning_solver.interop.transformers.optimizer import FIELDS, read_optimizer


def read_training_arguments(call: Call, facts: Facts, notes: Notes) -> Ask:
    """The schedule that a ``Trainer`` makes of its arguments, its optimiser, clipping and accumulation."""
    settings = Settings(call.bound(("output_dir",), call.name or "TrainingArguments"), call.name, notes)
    name = scheduler_name(settings, "lr_scheduler_type", "linear")
    own, own_where = own_arguments(settings, "lr_scheduler_kwargs", name, notes)
    total, where = _total_steps(settings, facts, notes)
    steps = facts.get("total_iters")

    def need_steps(key: str) -> Any:
        return facts.need("total_iters", key, "needs the number of steps that num_train_epochs come to")

    def default_lr(key: str) -> float:
        rate = facts.get("optimizer_default_lr")
        if rate is None:
            rate = settings.number("learning_rate")
        if rate is None:
            notes.say(key, "is relative to learning_rate, which is not given: the default of 5e-5 is taken")
        return 5e-5 if rate is None else float(rate)

    run = Run(
        warmup=_warmup_steps(settings, total, need_steps, notes),
        total=None if total is None else Fraction(total),
        relative=steps is None or steps == total,
        steps=steps,
        where=where,
    )
    monitor = "eval_loss"
    if name == "reduce_lr_on_plateau":
        monitor = _monitor(settings, own.get("mode", "min"), notes)
    optimizer = {**read_optimizer(settings, notes), **read_gradients(settings, facts, notes)}
    settings.rest(_why, [*_OTHERS, *FIELDS, *GRADIENTS])
    arguments = Settings(own, own_where, notes)
    return Ask(name, arguments, own, run, default_lr, need_steps, notes, monitor, optimizer)


def _total_steps(settings: Settings, facts: Facts, notes: Notes) -> tuple[int | None, str]:
    """The number of steps that the schedule is made for, where it is known, and the key that says so."""
    most, epochs = settings.number("max_steps", -1), settings.number("num_train_epochs", 3.0)
    where = settings.path("max_steps")
    if most == 0 or int(most) != most:
        raise SolverError(where, "must be a whole number of steps, or -1", got=repr(most), do="correct it")
    if most > 0:
        if "num_train_epochs" in settings:
            notes.say(settings.path("num_train_epochs"), "has no effect beside max_steps, as in transformers")
        return int(most), where
    where = settings.path("num_train_epochs")
    if epochs <= 0:
        raise SolverError(where, "must be > 0", got=repr(epochs), do="give the number of epochs, or max_steps")
    notes.say(where, f"the schedule is made for {epochs:g} epochs: Trainer(max_epochs={epochs:g})")
    batches = facts.get("iters_per_epoch")
    if batches is not None:
        per_step, _ = accumulated(settings)
        if per_step == 1:
            per_step = facts.get("batches_per_step") or 1
        return math.ceil(epochs * max(math.ceil(exact(batches) / exact(per_step)), 1)), where
    steps = facts.get("total_iters")
    return None if steps is None else int(steps), where


def _warmup_steps(settings: Settings, total: int | None, need_steps: Callable[[str], Any], notes: Notes) -> Fraction:
    """``W``: a whole number, or a share of the steps that is rounded up."""
    given, key = settings.number("warmup_steps", 0, low=0), "warmup_steps"
    ratio = settings.number("warmup_ratio", 0, low=0)  # until release 5
    if ratio > 1:
        raise SolverError(settings.path("warmup_ratio"), "must lie between 0 and 1", got=repr(ratio), do="correct it")
    if ratio and given:
        notes.say(settings.path("warmup_ratio"), "has no effect beside warmup_steps, as in transformers")
    elif ratio:
        given, key = ratio, "warmup_ratio"
    if given >= 1 and key == "warmup_steps":
        if int(given) != given:
            notes.say(settings.path(key), f"transformers cuts {given} off to {int(given)}")
        return Fraction(int(given))
    if not given:
        return Fraction(0)
    steps = need_steps(settings.path(key)) if total is None else total
    warmup = math.ceil(steps * given)
    notes.say(settings.path(key), f"is a share of the {steps} steps, rounded up to {warmup}")
    return Fraction(warmup)


def _monitor(settings: Settings, mode: Any, notes: Notes) -> str:
    """The metric that a ``Trainer`` gives to a plateau; what it refuses and what it disregards."""
    key = "evaluation_strategy" if "evaluation_strategy" in settings else "eval_strategy"
    strategy = settings.take(key, "no")
    strategy = strategy.text.rpartition(".")[2].lower() if isinstance(strategy, Name) else strategy
    if str(getattr(strategy, "value", strategy)) in ("no", "False"):  # YAML reads no as False
        do = f"set {key} to epoch or steps"
        raise SolverError(settings.path(key), "reduce_lr_on_plateau needs evaluations", got=repr(strategy), do=do)
    notes.say(settings.path(key), "the metric is looked at once per validation: have as many of them in the Trainer")
    metric = settings.take("metric_for_best_model") or "loss"
    greater = settings.take("greater_is_better")
    better = "max" if (not str(metric).endswith("loss") if greater is None else greater) else "min"
    if mode != better:
        what = f"transformers asks lr_scheduler_kwargs alone, not greater_is_better: the mode of the plateau is {mode}"
        notes.say(settings.path("greater_is_better"), what)
    monitor = str(metric) if str(metric).startswith("eval_") else f"eval_{metric}"
    notes.say(settings.path("metric_for_best_model"), f"the plateau follows {monitor}: log it by that name")
    return monitor


def _why(key: str) -> str | None:
    return "is not part of the schedules" if key in _OTHERS else None


_FIELDS = """
    activation_checkpointing activation_checkpointing_kwargs auto_find_batch_size
    batch_eval_metrics bf16 bf16_full_eval data_seed dataloader_drop_last
    dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
    dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm do_eval do_predict do_train
    enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_steps
    eval_strategy eval_use_gather_object evaluation_strategy fp16 fp16_backend fp16_full_eval fp16_opt_level fsdp
    fsdp_config full_determinism gradient_checkpointing gradient_checkpointing_kwargs greater_is_better
    group_by_length half_precision_backend hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy
    hub_token ignore_data_skip include_for_metrics include_inputs_for_metrics include_num_input_tokens_seen
    include_tokens_per_second jit_mode_eval label_names label_smoothing_factor length_column_name
    liger_kernel_config load_best_model_at_end local_rank log_level log_level_replica log_on_each_node logging_dir
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy metric_for_best_model
    neftune_noise_alpha no_cuda output_dir overwrite_output_dir parallelism_config past_index
    per_device_eval_batch_size per_device_train_batch_size prediction_loss_only project push_to_hub ray_scope
    remove_unused_columns report_to restore_callback_states_from_checkpoint resume_from_checkpoint run_name
    save_on_each_node save_only_model save_safetensors save_steps save_strategy save_total_limit seed
    skip_memory_metrics split_batches tf32 torch_compile torch_compile_backend torch_compile_mode
    torch_empty_cache_steps torchdynamo tpu_metrics_debug tpu_num_cores trackio_bucket_id trackio_space_id
    trackio_static_space_id train_sampling_strategy use_cache use_cpu use_ipex use_legacy_prediction_loop
    use_liger_kernel use_mps_device
"""
_OTHERS = _FIELDS.split()
"""Fields of ``TrainingArguments``, of releases 4 and 5, that have nothing to do with schedules."""
