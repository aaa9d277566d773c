"""The arguments of Composer's ``Trainer``, and its schedulers among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_solver.errors import SolverError
from lightning_solver.interop.base import refuse_other_peers
from lightning_solver.interop.composer.algorithms import ALGORITHMS, is_algorithm
from lightning_solver.interop.reading import Call, Name, Unread, read_calls


def trainer_arguments(config: Any) -> Mapping[str, Any]:
    """The arguments of the trainer."""
    if isinstance(config, (str, Call, list, tuple)):
        calls = read_calls(config, "config")
        trainers = [call for call in calls if call.name == "Trainer"]
        if trainers:
            return trainers[0].kwargs
        schedulers, algorithms = (
            [call for call in calls if (call.name in ALGORITHMS) is ours] for ours in (False, True)
        )
        return {"schedulers": schedulers, **({"algorithms": algorithms} if algorithms else {})}
    if not isinstance(config, Mapping):
        do = "give a mapping, the text of a call, or the path of a file"
        raise SolverError("config", "is not a Composer recipe", got=repr(config)[:120], do=do)
    refuse_other_peers(config, "from_composer")
    if is_algorithm(config):
        return {"algorithms": config}
    bare = config.get("calls")  # of a Python file
    values = [*config.values(), *(bare if isinstance(bare, list) else [])]
    for value in values:
        if isinstance(value, Call) and value.name == "Trainer":
            return value.kwargs
    return config


def scheduler_calls(config: Any, where: str) -> list[Call]:
    """The schedulers' constructor calls."""
    if config is None:
        return []
    items = config if isinstance(config, (list, tuple)) else [config]
    for item in items:
        text = isinstance(item, str) and item.lstrip().startswith("lambda")
        if text or callable(item) or isinstance(item, (Unread, Name)):
            do = "write the schedule natively; schedules.Function takes a function of the step"
            raise SolverError(where, "a scheduler that is a function is not read", got=str(item)[:120], do=do)
    if isinstance(config, Mapping) and len(config) > 1 and all(isinstance(item, Mapping) for item in config.values()):
        items = [{name: arguments} for name, arguments in config.items()]
    return read_calls(list(items), where)


def why(key: str) -> str | None:
    """What to say of an argument that nobody read."""
    return "is not part of the schedules" if key in OTHERS else None


_ARGUMENTS = """
    algorithm_passes algorithms auto_log_hparams autoresume callbacks
    compile_config console_log_interval console_stream deepspeed_config deterministic_mode device
    device_eval_batch_size dist_timeout ddp_sync_strategy
    eval_dataloader eval_first eval_interval eval_loader eval_subset_num_batches fsdp_config global_seed
    global_train_batch_size load_exclude_algorithms load_ignore_keys load_object_store load_path
    load_progress_bar load_strict_model_weights load_weights_only log_to_console log_traces loggers max_seq_len
    model optimizer optimizers parallelism_config precision precision_config profiler progress_bar python_log_level
    run_name save_filename save_folder save_ignore_keys save_interval save_latest_filename save_metrics
    save_num_checkpoints_to_keep save_overwrite save_weights_only seed spin_dataloaders tokenizer train_dataloader
    train_dataloader_label train_loader train_subset_num_batches variables
"""
OTHERS = _ARGUMENTS.split()
"""Arguments of the trainer, and keys of llm-foundry, that have nothing to do with schedules."""
