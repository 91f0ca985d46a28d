import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from services.shared.ids import Uuid7, derived, namespace


def test_ids_are_version_seven_and_hold_the_time():
    before = time.time_ns() // 1_000_000
    value = Uuid7()()
    after = time.time_ns() // 1_000_000

    assert (value.version, value.variant) == (7, "specified in RFC 4122")
    assert before <= value.int >> 80 <= after


def test_ids_grow_strictly():
    new = Uuid7()
    ids = [new() for _ in range(20_000)]

    assert all(earlier < later for earlier, later in itertools.pairwise(ids))


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_texts_are_the_canonical_forms_of_the_next_ids(count):
    new = Uuid7()
    before, texts, after = new(), new.texts(count), new()
    ids = [UUID(text) for text in texts]

    assert [str(value) for value in ids] == texts
    assert len(ids) == count
    assert {(value.version, value.variant) for value in ids} == {(7, "specified in RFC 4122")}
    assert all(earlier < later for earlier, later in itertools.pairwise([before, *ids, after]))


@pytest.mark.parametrize("tail", [(1 << 62) - 2, (1 << 74) - 2], ids=["into its upper digits", "into the time"])
def test_texts_grow_when_the_count_runs_over(monkeypatch, tail):
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)
    new = Uuid7()
    new()
    # The last step that the first id takes is kept small, so that it is the others that run over.
    new._tail = tail
    monkeypatch.setattr(new, "_step", lambda: 0)
    first, *others = (UUID(text) for text in new.texts(100))

    assert first.int >> 64 < others[-1].int >> 64
    assert all(earlier < later for earlier, later in itertools.pairwise([first, *others, new()]))
    assert {(value.version, value.variant) for value in others} == {(7, "specified in RFC 4122")}


def test_ids_are_unique_across_threads():
    new = Uuid7()
    with ThreadPoolExecutor(4) as pool:
        ids = [value for chunk in pool.map(lambda _: [new() for _ in range(2000)], range(4)) for value in chunk]

    assert len(set(ids)) == 8000


def test_ids_grow_when_the_clock_steps_back(monkeypatch):
    new = Uuid7()
    first = new()
    monkeypatch.setattr(time, "time_ns", lambda: 0)

    assert new() > first


def test_tail_that_runs_over_borrows_the_next_millisecond(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 5_000_000)
    new = Uuid7()
    first = new()
    new._tail = (1 << 74) - 1
    second = new()

    assert second > first
    assert second.int >> 80 == 6


def test_derived_id_is_stable_and_depends_on_every_part():
    space = namespace("embedding")

    assert derived(space, 1, "fact") == derived(space, "1", "fact") == UUID(str(derived(space, 1, "fact")))
    assert len({derived(space, 1, "a"), derived(space, 2, "a"), derived(space, 1, "b"), derived(space, "1a")}) == 4
    assert derived(namespace("other"), 1, "fact") != derived(space, 1, "fact")


def test_parts_do_not_run_into_each_other():
    space = namespace("x")

    assert derived(space, "ab", "c") != derived(space, "a", "bc")
