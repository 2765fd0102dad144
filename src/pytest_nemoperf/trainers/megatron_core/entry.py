"""One rank of a run by Megatron-Core; see the contracts in records/step.py."""

from __future__ import annotations

from pytest_nemoperf.native.rank.entry import main_of_process
from pytest_nemoperf.trainers.megatron_core.trainer import MegatronTrainer

if __name__ == "__main__":
    main_of_process(MegatronTrainer)
