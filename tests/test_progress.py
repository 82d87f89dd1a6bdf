"""One progress bar for all: on a terminal it counts, elsewhere it says its lines and no more."""

import io
import sys

import pytest

from cardiotune.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "seen"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_bar_is_shown_on_a_terminal(stream: io.StringIO, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("training", total=10, done=3) as bar:
        bar.advance(4, "loss 0.5")
        bar.say("step 7 of 10")
    told = stream.getvalue()
    assert "step 7 of 10\n" in told.replace("\r", "")
    assert all((part in told) == seen for part in ("7/10", "loss 0.5", "training"))


def test_all_but_the_first_of_many_processes_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("training", total=10, quiet=True) as bar:
        bar.advance(1)
        bar.say("step 1")
    assert stream.getvalue() == ""
