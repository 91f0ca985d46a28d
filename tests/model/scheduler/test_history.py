"""The history checker finds each kind of violation that is planted, and nothing in a good history."""

from dataclasses import replace

import pytest

from tests.model.scheduler.history import STALE_WRITE, Answer, Call, Event, check

GOOD = (
    Event(call=Call.CREATE, job_id="j", invoked=0, returned=1),
    Event(call=Call.LEASE, job_id="j", returned=2, token=1, worker_id="A", key="k", held_until=10),
    Event(call=Call.RENEW, job_id="j", invoked=3, returned=4, token=1, worker_id="A", held_until=10),
    Event(call=Call.LEASE, job_id="j", returned=12, token=2, worker_id="B", key="k", held_until=22),
    Event(call=Call.COMPLETE, job_id="j", invoked=13, returned=14, token=1, worker_id="A", answer=Answer.REFUSED),
    Event(call=Call.COMPLETE, job_id="j", invoked=15, returned=16, token=2, worker_id="B", state="SUCCEEDED"),
    Event(call=Call.OBSERVE, job_id="j", invoked=20, returned=21, token=2, state="SUCCEEDED"),
)
CREATED, FIRST, RENEWED, SECOND, STALE, DONE, SEEN = GOOD


def promises(history, **options) -> set[str]:
    return {violation.promise for violation in check(history, **options)}


def test_good_history_has_no_violation() -> None:
    assert check(GOOD, caps={"k": 1}) == []


PLANTED = {
    "lost": (GOOD[:-1], "an acknowledged job is never lost"),
    "stale completion": ((*GOOD[:4], replace(STALE, answer=Answer.ACCEPTED), SEEN), STALE_WRITE),
    "stale renewal": ((*GOOD, replace(RENEWED, invoked=13, returned=14)), STALE_WRITE),
    "stale child": ((*GOOD, replace(RENEWED, call=Call.CREATE_CHILD, invoked=13, returned=14)), STALE_WRITE),
    "stale release": ((*GOOD, replace(RENEWED, call=Call.RELEASE, invoked=13, returned=14)), STALE_WRITE),
    "two completions": ((*GOOD, replace(DONE, token=1, invoked=3, returned=4)), "a job is completed once"),
    "completed, not succeeded": ((*GOOD[:-1], replace(SEEN, state="PENDING")), "a completed job has succeeded"),
    "succeeded by nobody": ((*GOOD[:5], SEEN), "a job succeeds by a completion"),
    "never leased": ((CREATED, DONE, SEEN), "a job is started before it is completed"),
    "leased afterwards": (
        (CREATED, replace(DONE, invoked=2.5, returned=2.7), SECOND, SEEN),
        "a job is started before it is completed",
    ),
    "one token, two workers": ((*GOOD, replace(SECOND, worker_id="A")), "a token is given to one worker"),
    "two ends of one lease": (
        (*GOOD, replace(DONE, call=Call.RELEASE, state="PENDING")),
        "a lease ends once",
    ),
    "started after the end": ((*GOOD, replace(SECOND, token=3)), "a job that ended is not started again"),
    "started after a cancel": (
        (CREATED, FIRST, Event(call=Call.CANCEL, job_id="j", returned=3, token=0, state="CANCELLED"), SEEN),
        "a job that ended is not started again",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_violation_is_found(planted: str) -> None:
    history, promise = PLANTED[planted]

    assert promise in promises(history)


def test_retried_job_may_start_again() -> None:
    failed = replace(DONE, call=Call.FAIL, state="FAILED")
    retried = Event(call=Call.RETRY, job_id="j", invoked=17, returned=18)
    again = replace(SECOND, token=3, returned=19)

    assert check((*GOOD[:5], failed, retried, again, replace(SEEN, token=3, state="RUNNING"))) == []


def test_repeated_write_is_one_write() -> None:
    assert check((*GOOD[:-1], replace(DONE, invoked=16.5, returned=17), SEEN)) == []


def test_unclear_completion_may_have_happened() -> None:
    assert check((*GOOD[:5], replace(DONE, answer=Answer.UNKNOWN), SEEN)) == []


def test_write_that_ran_beside_a_new_lease_is_not_judged_stale() -> None:
    beside = replace(STALE, answer=Answer.ACCEPTED, call=Call.FAIL, state="PENDING", invoked=11, returned=13)

    assert STALE_WRITE not in promises((*GOOD, beside))


def test_cap_is_counted_over_jobs() -> None:
    other = replace(FIRST, job_id="i", returned=5, held_until=8)

    assert promises((*GOOD, other), caps={"k": 1}) == {"a concurrency cap is never exceeded"}
    assert promises((*GOOD, other), caps={"k": 2}) == set()
    assert promises((*GOOD, replace(other, returned=10.5, held_until=11.5)), caps={"k": 1}) == set()


def test_renewed_lease_counts_until_its_new_end() -> None:
    renewed = replace(RENEWED, held_until=11)
    other = replace(FIRST, job_id="i", returned=10.5, held_until=11)

    assert promises((*GOOD, renewed, other), caps={"k": 1}) == {"a concurrency cap is never exceeded"}
