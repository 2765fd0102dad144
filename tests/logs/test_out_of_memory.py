from __future__ import annotations

import pytest

from pytest_nemoperf.logs.out_of_memory import find_out_of_memory

NEW = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 3 has a total capacity of 79.11 GiB "
    "of which 1.10 GiB is free. Process 77 has 78.00 GiB memory in use."
)
OLD = (
    "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 1; 39.59 GiB total capacity; 36.00 GiB already "
    "allocated; 9.19 MiB free; 37.00 GiB reserved in total by PyTorch)"
)
CPU = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (NEW, "OUT OF MEMORY: c tried to allocate 2.50 GiB on GPU 3 (it has 79.11 GiB, 1.10 GiB free); use a smaller"),
        (f"[rank5]: {NEW}", "OUT OF MEMORY: rank 5 of c tried to allocate 2.50 GiB on GPU 3 (it has 79.11 GiB"),
        (f"[default7]:{NEW}", "OUT OF MEMORY: rank 7 of c tried to allocate 2.50 GiB"),
        (f"12: {NEW}", "OUT OF MEMORY: rank 12 of c tried to allocate 2.50 GiB"),
        (f"12:34:56 {NEW}", "OUT OF MEMORY: c tried to allocate 2.50 GiB"),
        (f"[12:34:56] {NEW}", "OUT OF MEMORY: c tried to allocate 2.50 GiB"),
        (OLD, "OUT OF MEMORY: c tried to allocate 20.00 MiB on GPU 1 (it has 39.59 GiB, 9.19 MiB free)"),
        (CPU, "OUT OF MEMORY: c tried to allocate 4398046511104 bytes; use"),
        ("MemoryError", "OUT OF MEMORY: c: MemoryError; use"),
        ("MemoryError: Unable to allocate 8.00 TiB", "OUT OF MEMORY: c: MemoryError: Unable to allocate 8.00 TiB; use"),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.",
            "OUT OF MEMORY: c: slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.",
        ),
        ("ncclUnhandledCudaError: Cuda failure 2 'out of memory'", "OUT OF MEMORY: c: ncclUnhandledCudaError"),
    ],
    ids=[
        "torch",
        "rank",
        "torchrun",
        "srun",
        "clock",
        "clock in brackets",
        "old torch",
        "cpu",
        "python",
        "numpy",
        "slurm",
        "nccl",
    ],
)
def test_a_report_is_told_with_rank_and_size(text: str, sentence: str) -> None:
    found = find_out_of_memory(f"step 1\n{text}\nmore\n")

    assert found is not None
    assert found.describe(subject="c").startswith(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step 3 loss 2.1 memory: 12.00GiB",
        "set expandable_segments to avoid out of memory errors",
        "INFO: no out of memory events seen",
        "WARNING: batch 3 skipped after CUDA out of memory in eval, retried",
        "If you run out of memory, lower the batch size",
        "was killed by SIGKILL (out of memory? the kernel's log tells)",
        "RuntimeError: shape mismatch in MemoryErrorHandler",
    ],
)
def test_other_lines_are_no_report(text: str) -> None:
    assert find_out_of_memory(text) is None


def test_the_rank_of_the_log_is_named_where_the_line_names_none() -> None:
    found = find_out_of_memory(NEW)

    assert found is not None
    assert "OUT OF MEMORY: rank 2 of c tried" in found.describe(subject="c", rank=2)
