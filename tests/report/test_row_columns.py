from __future__ import annotations

import pytest

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.row_columns import COLUMNS, default_columns, find_column
from pytest_nemoperf.results.row import RowKind
from pytest_nemoperf.results.row_ratio import main_metric
from tests.results.row_builders import make_origin, make_row


def test_every_metric_has_a_column() -> None:
    assert METRICS.keys() <= COLUMNS.keys()


def test_second_names_are_those_of_one_column_only() -> None:
    names = [*COLUMNS, *(column.short for column in COLUMNS.values() if column.short)]

    assert len(names) == len(set(names))


def test_a_column_is_found_by_either_name() -> None:
    assert find_column("tokens", subject="--sort") is find_column("tokens_per_sec_per_gpu", subject="--sort")


def test_an_unknown_column_is_an_error_with_the_nearest() -> None:
    with pytest.raises(BaselineError, match=r"^--sort: unknown column 'modelx'; did you mean model"):
        find_column("modelx", subject="--sort")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("tokens_per_sec_per_gpu", 12000.0, "12,000"),
        ("spread_pct", pytest.approx(100 / 600), "0.17%"),
        ("num_runs", 3, "3"),
        ("gpus", 8, "8"),
        ("vp", None, ""),
        ("mfu_pct", None, ""),
        ("of", "2026-11-01", "2026-11-01"),
        ("from", "measured", "measured"),
        ("layout", "", ""),
        ("backend", None, ""),
    ],
)
def test_columns_of_a_measured_row(name: str, value: object, text: str) -> None:
    column = COLUMNS[name]

    assert (column.value_of(make_row()), column.text(make_row())) == (value, text)


def test_a_published_figure_has_all_its_digits_and_its_page() -> None:
    origin = make_origin(kind=RowKind.PUBLISHED, release="25.09", source="NVIDIA-NeMo/Megatron-Bridge")
    row = make_row(values={"tokens_per_sec_per_gpu": (14079.25,), "step_time_sec": (97.7,)}, origin=origin)

    texts = [COLUMNS[name].text(row) for name in ("tokens_per_sec_per_gpu", "step_time_sec", "of", "from")]
    assert texts == ["14,079.25", "97.7 s", "25.09", "Megatron-Bridge"]


@pytest.mark.parametrize(
    ("kind", "source", "word"),
    [
        (RowKind.PUBLISHED, "NVIDIA-NeMo/Megatron-Bridge", "Megatron-Bridge"),
        (RowKind.PUBLISHED, "NVIDIA-NeMo/RL", "NVIDIA-NeMo/RL"),
        (RowKind.DRAFT, "NVIDIA-NeMo/DFM", "NVIDIA-NeMo/DFM (draft)"),
        (RowKind.PUBLISHED, "pytorch.org", "pytorch.org"),
    ],
)
def test_the_page_of_a_published_row_is_a_word(kind: RowKind, source: str, word: str) -> None:
    assert COLUMNS["from"].text(make_row(origin=make_origin(kind=kind, source=source))) == word


def test_a_call_is_compared_by_its_time() -> None:
    metric = main_metric(make_row(values={"time_per_call_sec": (0.1, 0.2)}))

    assert metric is METRICS["time_per_call_sec"]
    assert main_metric(make_row(values={"kl": (0.1,)})) is None


def test_the_terminal_s_columns_are_those_that_a_row_has() -> None:
    published = make_row((1.0,), origin=make_origin(kind=RowKind.PUBLISHED, release="25.09", source="o/page"))

    measured_names = [column.name for column in default_columns([make_row()])]
    published_names = [column.name for column in default_columns([published])]

    assert measured_names == ["case", "tokens_per_sec_per_gpu", "spread_pct", "num_runs", "of", "from"]
    assert "model" in published_names
    assert {"spread_pct", "num_runs", "vp"}.isdisjoint(published_names)
    assert "num_runs" in [column.name for column in default_columns([make_row(), published])]


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("tokens_per_sec_per_gpu", "tokens/sec/GPU"),
        ("generation_tokens_per_sec_per_gpu", "generation (tokens/sec/GPU)"),
        ("mfu_pct", "MFU (%)"),
        ("peak_memory_gib", "peak GiB"),
        ("refit_time_sec", "refit time"),
        ("kl", "KL from the reference"),
    ],
)
def test_a_heading_has_the_unit_that_its_values_lack(name: str, heading: str) -> None:
    assert COLUMNS[name].heading == heading


def test_a_published_row_is_of_no_number_of_runs() -> None:
    column = COLUMNS["num_runs"]

    assert column.text(make_row()) == "3"
    assert not column.text(make_row((1.0,), origin=make_origin(kind=RowKind.PUBLISHED)))
