"""Two processes for real, on the CPU; the cases themselves are in the scripts that ``CASES`` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from two_processes import launch

CASES = {
    "distributed_cases.py": [
        *["ddp_uneven", "ddp_resume", "ddp_plateau", "fsdp2", "fsdp2_resume", "fsdp2_other_groups", "fsdp1"],
    ],
    "distributed_freezing_cases.py": [
        *["ddp_frozen", "ddp_frozen_norm", "ddp_unfreezing", "ddp_resume", "ddp_members"],
        *["fsdp2_frozen", "fsdp2_resume_while_frozen", "fsdp2_unfreezing"],
    ],
    "distributed_accumulation_cases.py": [
        *["ddp_exact", "ddp_resume", "ddp_other_processes", "ddp_samples"],
        *["fsdp2_exact", "fsdp2_full_resume", "fsdp2_sharded_resume"],
    ],
    "distributed_average_cases.py": [
        *["ddp_reference", "ddp_resume", "ddp_end", "ddp_changes", "ddp_tested", "ddp_others"],
        *["ddp_norms", "ddp_statistics"],
        *["fsdp2_shards", "fsdp2_full_resume", "fsdp2_sharded_resume", "fsdp2_full_end", "fsdp2_sharded_end"],
        *["fsdp2_full_changes", "fsdp2_sharded_changes", "fsdp2_tested", "fsdp2_breaks", "fsdp2_others", "fsdp2_half"],
    ],
    "distributed_monitor_cases.py": ["ddp", "fsdp2", "fsdp2_silent"],
    "distributed_norm_cases.py": [
        *["exact", "ddp", "ddp_without_validation", "ddp_averages", "ddp_tells", "fsdp2", "fsdp2_averages"],
    ],
    "distributed_clip_cases.py": ["shards", "shards_two_meshes", "shards_odd", "fsdp2", "tensor_parallel", "learning"],
    "distributed_clipping_callback_cases.py": [
        *["ddp_clipped", "ddp_accumulated", "ddp_nonfinite", "ddp_learnt"],
        *["fsdp2_clipped", "fsdp2_greatest", "fsdp2_nonfinite", "fsdp2_one_shard"],
    ],
}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[set[str], str]]:
    """Script -> the cases that have passed, and what was said; each script is launched once, when it is asked for."""
    return _Launched(tmp_path_factory.mktemp("two_processes"))


class _Launched(dict[str, tuple[set[str], str]]):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __missing__(self, script: str) -> tuple[set[str], str]:
        self[script] = launch(Path(__file__).parent / script, CASES[script], self._folder / script)
        return self[script]


@pytest.mark.slow
@pytest.mark.parametrize(("script", "case"), [(script, case) for script, cases in CASES.items() for case in cases])
def test_two_processes(script: str, case: str, launched: dict[str, tuple[set[str], str]]) -> None:
    passed, said = launched[script]
    assert case in passed, said
