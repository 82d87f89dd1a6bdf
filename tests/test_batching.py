"""Rows that wait together are scored together, and every answer goes to the one who asked."""

import random
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest

from cardiotune.deployment.batching import Batcher, BatchSettings, QueueFullError
from cardiotune.errors import DataError, ModelError, PromptsTooLongError, RunError


class Squares:
    """A model whose answer tells its row; it can be held up, and it fails on negative rows."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, rows: list[int]) -> list[int]:
        self.go.wait(10)
        self.batches.append(len(rows))
        self.threads.add(threading.get_ident())
        if any(row < 0 for row in rows):
            raise DataError("negative")
        return [row * row for row in rows]


def held(model: Squares, batcher: Batcher[int, int]) -> Future[list[int]]:
    """A row that the model has begun and does not finish before `go`."""
    model.go.clear()
    first = batcher.submit([0])
    while batcher.waiting:
        time.sleep(0.001)
    return first


def test_every_answer_goes_to_its_row() -> None:
    model = Squares()
    batcher = Batcher(model, BatchSettings(rows=32, wait_seconds=0.001))
    draw = random.Random(0)
    asked = [[draw.randrange(10**6) for _ in range(draw.randrange(1, 50))] for _ in range(400)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda rows: batcher.submit(rows).result(), asked))
    batcher.close()
    assert answers == [[row * row for row in rows] for rows in asked]
    assert len(model.threads) == 1
    assert len(model.batches) < len(asked)


def test_what_gathers_while_the_model_is_busy_is_one_batch_within_the_budget() -> None:
    model = Squares()
    batcher = Batcher(model, BatchSettings(rows=8, wait_seconds=0.001))
    first = held(model, batcher)
    others = [batcher.submit([number, number]) for number in range(5)]
    model.go.set()
    assert first.result() == [0]
    assert [answer.result() for answer in others] == [[n * n, n * n] for n in range(5)]
    batcher.close()
    assert model.batches == [1, 8, 2]


def test_one_request_over_the_budget_goes_alone() -> None:
    model = Squares()
    batcher = Batcher(model, BatchSettings(rows=4, wait_seconds=0.001))
    assert batcher.submit(list(range(10))).result() == [n * n for n in range(10)]
    batcher.close()
    assert model.batches == [10]


def test_a_row_that_cannot_be_scored_fails_only_its_own_request() -> None:
    model = Squares()
    batcher = Batcher(model, BatchSettings(rows=64, wait_seconds=0.001))
    first = held(model, batcher)
    good, bad, other = batcher.submit([2]), batcher.submit([-1]), batcher.submit([3])
    model.go.set()
    assert (first.result(), good.result(), other.result()) == ([0], [4], [9])
    with pytest.raises(DataError, match="negative"):
        bad.result()
    assert batcher.submit([5]).result() == [25]
    batcher.close()


@pytest.mark.parametrize(
    "error", [RunError("down"), ModelError("damaged"), ValueError("a bug"), MemoryError()], ids=repr
)
def test_what_is_no_fault_of_a_row_fails_the_pass_and_nobody_is_tried_alone(error: Exception) -> None:
    model = Squares()
    fails = False

    def score(rows: list[int]) -> list[int]:
        found = model(rows)
        if fails:
            raise error
        return found

    batcher = Batcher(score, BatchSettings(rows=64, wait_seconds=0.001))
    first = held(model, batcher)
    waiting = [batcher.submit([number]) for number in range(30)]
    fails = True
    model.go.set()
    for answer in (first, *waiting):
        with pytest.raises(type(error)):
            answer.result()
    assert model.batches == [1, 30]
    fails = False
    assert batcher.submit([5]).result() == [25]
    batcher.close()


def test_rows_that_are_named_go_alone_and_the_others_together() -> None:
    passes: list[list[int]] = []
    model = Squares()

    def score(rows: list[int]) -> list[int]:
        passes.append(rows)
        if long := [place for place, row in enumerate(rows) if row >= 100]:
            raise PromptsTooLongError("too long", long)
        return model(rows)

    batcher = Batcher(score, BatchSettings(rows=64, wait_seconds=0.001))
    first = held(model, batcher)
    asked = [[1, 2], [3, 100, 4], [5], [200, 201], [6]]
    answers = [batcher.submit(rows) for rows in asked]
    model.go.set()
    assert first.result() == [0]
    for rows, answer in zip(asked, answers, strict=True):
        if max(rows) < 100:
            assert answer.result() == [row * row for row in rows]
        else:
            with pytest.raises(PromptsTooLongError) as error:
                answer.result()
            assert [rows[place] for place in error.value.rows] == [row for row in rows if row >= 100]
    batcher.close()
    assert passes[1:] == [[1, 2, 3, 100, 4, 5, 200, 201, 6], [1, 2, 5, 6], [3, 100, 4], [200, 201]]


def test_a_full_queue_refuses_and_recovers() -> None:
    model = Squares()
    batcher = Batcher(model, BatchSettings(rows=4, wait_seconds=0, queue_rows=3))
    held(model, batcher)
    waits = batcher.submit([1, 2, 3])
    with pytest.raises(QueueFullError, match="3 rows wait already"):
        batcher.submit([4])
    model.go.set()
    assert waits.result() == [1, 4, 9]
    assert batcher.submit([4]).result() == [16]
    batcher.close()


def test_a_cancelled_request_is_not_scored() -> None:
    model = Squares()
    batcher = Batcher(model, BatchSettings(wait_seconds=0))
    held(model, batcher)
    given_up = batcher.submit([7, 7, 7])
    assert given_up.cancel()
    model.go.set()
    batcher.close()
    assert model.batches == [1]
    with pytest.raises(CancelledError):
        given_up.result()


def test_closing_answers_what_was_accepted_and_refuses_the_rest() -> None:
    model = Squares()
    batcher = Batcher(model, BatchSettings(rows=2, wait_seconds=0))
    held(model, batcher)
    waiting = [batcher.submit([number]) for number in range(20)]
    model.go.set()
    batcher.close()
    assert [answer.result(0) for answer in waiting] == [[n * n] for n in range(20)]
    with pytest.raises(RunError, match="stopped"):
        batcher.submit([1])


def test_a_model_that_answers_too_little_is_an_error() -> None:
    def short(rows: list[int]) -> list[int]:
        return rows[:-1]

    batcher = Batcher(short, BatchSettings(wait_seconds=0))
    with pytest.raises(RunError, match="1 answers for 2 rows"):
        batcher.submit([1, 2]).result()
    batcher.close()
