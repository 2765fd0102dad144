from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from pytest_nemoperf.records.step import Progress as LastStep
from pytest_nemoperf.session.progress import Progress
from tests.builders import make_plan


class Terminal:
    """A session's display on a terminal, and a clock that is set by hand."""

    def __init__(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *options: str, columns: int = 80
    ) -> None:
        config = pytester.parseconfigure(*options)
        self.file = io.StringIO()
        self.now = 100.0
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        reporter._tw._file = self.file
        monkeypatch.setattr(reporter, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("pytest_nemoperf.session.progress.time", SimpleNamespace(monotonic=lambda: self.now))
        self.progress = Progress(config)

    def written(self) -> str:
        """Return what was written since the last call."""
        text = self.file.getvalue()
        self.file.seek(0)
        self.file.truncate()
        return text


@pytest.fixture
def terminal(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(pytester, monkeypatch)


def test_a_line_with_the_same_text_is_not_written_again(terminal: Terminal) -> None:
    with terminal.progress.run(make_plan(), number=1, num_runs=5):
        assert "starting, 0 s" in terminal.written()

        for _ in range(8):
            terminal.progress.step(None)

        assert not terminal.written()


def test_the_clock_costs_a_few_bytes_a_second(terminal: Terminal) -> None:
    with terminal.progress.run(make_plan(), number=1, num_runs=5):
        terminal.written()

        for _ in range(80):
            terminal.now += 0.125
            terminal.progress.step(None)

        text = terminal.written()
    assert text.endswith("10 s")
    assert len(text) <= 8 * 10


def test_steps_that_arrive_faster_are_shown_once_a_second(terminal: Terminal) -> None:
    with terminal.progress.run(make_plan(), number=1, num_runs=5):
        terminal.written()

        for step in range(10):
            terminal.now += 0.25
            terminal.progress.step(LastStep(step=step, step_time_sec=0.25))

        text = terminal.written()
    assert text.count("tokens/sec/GPU") == 2


def test_a_finished_run_leaves_an_empty_line_behind(terminal: Terminal) -> None:
    with terminal.progress.run(make_plan(), number=1, num_runs=5):
        terminal.written()

    assert terminal.written() == "\r\x1b[K"


def test_the_line_of_a_run_has_the_short_name_of_its_case(terminal: Terminal) -> None:
    terminal.progress.begin("perf_tests/test_pretrain.py::test_llama[tp2]")

    with terminal.progress.run(make_plan(), number=1, num_runs=5):
        assert "llama[tp2]: run 1" in terminal.written()


def test_verbose_lines_have_the_whole_case_id(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(pytester, monkeypatch, "-v", columns=120)
    plan = make_plan()
    terminal.progress.begin("perf_tests/test_pretrain.py::test_llama[tp2]")

    with terminal.progress.run(plan, number=1, num_runs=5):
        assert f"{plan.case}: run 1" in terminal.written()


def test_a_terminal_that_can_not_move_its_cursor_has_no_live_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal(pytester, monkeypatch)
    assert terminal.progress.is_live

    monkeypatch.setenv("TERM", "dumb")

    assert not terminal.progress.is_live


def test_a_sentence_is_broken_between_words_on_a_terminal(terminal: Terminal) -> None:
    terminal.progress.write_line("run 1 is dropped and launched again: " + "other processes took the cores " * 5)

    lines = terminal.written().splitlines()
    assert lines[0] == "perf: run 1 is dropped and launched again: other processes took the cores other"
    assert all(line.startswith("  ") for line in lines[1:])
    assert max(map(len, lines)) <= 80
