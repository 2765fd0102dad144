"""Event files of torch's SummaryWriter, which the trainers write with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.reading import find_log_files, read_log

pytestmark = pytest.mark.trainers

CONTEXT = LogContext(num_gpus=1, tokens_per_step=100, seq_len=10, has_exact_tokens=True)


@pytest.mark.parametrize("new_style", [pytest.param(False, id="older"), pytest.param(True, id="newer")])
def test_torch_writes_scalars_of_either_form_between_much_else(tmp_path: Path, *, new_style: bool) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("config", "lr: 1e-5")
        writer.add_hparams({"lr": 1e-5}, {"hparam/loss": 0.5})
        for step in range(5):
            writer.add_scalar("time", 0.5 + step, step, new_style=new_style)
            writer.add_scalar("loss", torch.tensor(2.5), step, new_style=new_style)
            writer.add_histogram("weights", torch.arange(1000.0), step)
            writer.add_image("picture", torch.zeros(3, 400, 400), step)
            writer.add_scalars("several", {"a": 1.0, "b": 2.0}, step)
    log_format = LogFormat(kind=LogKind.TENSORBOARD, fields={"step_time_sec": "time", "loss": "loss"})

    files = find_log_files(str(tmp_path), run_dir=tmp_path, cwd=tmp_path)
    records = read_log(files, log_format=log_format, context=CONTEXT).records

    assert [(record.step_time_sec, record.loss) for record in records] == [(0.5 + step, 2.5) for step in range(5)]
    assert len(files) > 1  # add_scalars and add_hparams have files of their own


def test_a_writer_that_was_opened_again_adds_a_file(tmp_path: Path) -> None:
    for first in (0, 3):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{first}") as writer:
            for step in range(first, first + 3):
                writer.add_scalar("time", 0.5, step)
    log_format = LogFormat(kind=LogKind.TENSORBOARD, fields={"step_time_sec": "time"})

    reading = read_log([tmp_path], log_format=log_format, context=CONTEXT)

    assert [record.step for record in reading.records] == [0, 1, 2, 3, 4, 5]
