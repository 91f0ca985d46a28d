from collections import Counter

from services.scheduler.domain.ready_index import ReadyIndex
from tests.unit.scheduler.builders import entry


def names(entries):
    return [each.job_id for each in entries]


def filled(count: int, *, project: str = "p", start: int = 0):
    return [entry(f"{project}{number:05}", project=project, rank=number) for number in range(start, start + count)]


def test_jobs_of_a_project_go_by_rank():
    index = ReadyIndex()
    index.push([entry("late", rank=2), entry("early", rank=0), entry("middle", rank=1)])

    assert names(index.take(["extract"], 10)) == ["early", "middle", "late"]


def test_a_job_is_offered_once_however_often_it_is_announced():
    index = ReadyIndex()
    index.push([entry("a"), entry("a")])
    index.push([entry("a")])

    assert names(index.take(["extract"], 10)) == ["a"]
    assert len(index) == 0


def test_type_has_waiting_jobs_until_the_last_one_is_taken():
    index = ReadyIndex()
    assert not index.has_waiting("extract")
    index.push([entry("a"), entry("b")])

    index.take(["extract"], 1)
    assert index.has_waiting("extract")
    assert not index.has_waiting("crawl")
    index.take(["extract"], 1)
    assert not index.has_waiting("extract")


def test_type_whose_next_page_is_yet_to_come_has_waiting_jobs():
    index = ReadyIndex(buffer_size=4)
    index.push(filled(6))
    index.take(["extract"], 4)
    [request] = index.page_requests(["extract"])
    assert index.has_waiting("extract")

    index.add_page(request, [])
    assert not index.has_waiting("extract")


def test_projects_take_turns():
    index = ReadyIndex()
    index.push(filled(100, project="large"))
    index.push(filled(2, project="small"))

    assert Counter(each.project_id for each in index.take(["extract"], 4)) == {"large": 2, "small": 2}


def test_weights_are_shares():
    index = ReadyIndex()
    index.set_weights({"a": 3.0, "b": 1.0})
    for project in ("a", "b", "c"):
        index.push(filled(500, project=project))

    shares = Counter(each.project_id for each in index.take(["extract"], 500))

    assert abs(shares["a"] - 300) <= 3
    assert abs(shares["b"] - 100) <= 3
    assert abs(shares["c"] - 100) <= 3


def test_idle_project_saves_no_credit():
    index = ReadyIndex()
    index.push(filled(200, project="busy"))
    index.take(["extract"], 100)
    index.push(filled(100, project="idle"))

    assert Counter(each.project_id for each in index.take(["extract"], 20)) == {"busy": 10, "idle": 10}


def test_types_take_turns_and_others_are_left_alone():
    index = ReadyIndex()
    index.push([entry(f"a{n}", job_type="a", rank=n) for n in range(10)])
    index.push([entry(f"b{n}", job_type="b", rank=n) for n in range(10)])
    index.push([entry("c", job_type="c")])

    assert Counter(each.type for each in index.take(["a", "b"], 10)) == {"a": 5, "b": 5}


def test_only_the_front_of_a_backlog_is_held_and_pages_bring_the_rest_in_order():
    index = ReadyIndex(buffer_size=8)
    backlog = filled(30)
    index.push(backlog)
    assert len(index) == 8
    taken = names(index.take(["extract"], 7))
    while len(taken) < 30:
        for request in list(index.page_requests(["extract"])):
            behind = [each for each in backlog if each.rank > request.after]
            index.add_page(request, behind[: request.limit])
        taken += names(index.take(["extract"], 7))

    assert taken == names(backlog)
    assert list(index.page_requests(["extract"])) == []


def test_urgent_job_enters_a_long_backlog_at_its_front():
    index = ReadyIndex(buffer_size=4)
    index.push(filled(10))
    index.push([entry("urgent", rank=-5)])

    assert names(index.take(["extract"], 1)) == ["urgent"]


def test_job_that_arrives_while_the_last_page_is_read_is_not_lost():
    index = ReadyIndex(buffer_size=4)
    index.push(filled(5))
    index.take(["extract"], 4)
    [request] = index.page_requests(["extract"])
    index.push([entry("meanwhile", rank=99)])
    index.add_page(request, [entry("p00004", rank=4)])
    index.take(["extract"], 1)

    [again] = index.page_requests(["extract"])
    index.add_page(again, [entry("meanwhile", rank=99)])

    assert names(index.take(["extract"], 1)) == ["meanwhile"]


def test_page_is_asked_for_once_at_a_time_and_again_after_a_failure():
    index = ReadyIndex(buffer_size=4)
    index.push(filled(10))
    index.take(["extract"], 4)

    [request] = index.page_requests(["extract"])
    assert list(index.page_requests(["extract"])) == []
    index.page_failed(request)
    assert len(list(index.page_requests(["extract"]))) == 1


def test_jobs_of_a_shut_key_wait_without_holding_up_others():
    index = ReadyIndex()
    index.shut("site")
    index.push([entry("blocked", rank=0, key="site"), entry("free", rank=1)])

    assert names(index.take(["extract"], 10)) == ["free"]
    assert index.open("site")
    assert names(index.take(["extract"], 10)) == ["blocked"]


def test_opening_a_key_that_holds_nothing_up_says_so():
    assert not ReadyIndex().open("unknown")


def test_long_backlog_of_a_shut_key_costs_no_memory_and_comes_back_in_pages():
    index = ReadyIndex(buffer_size=5000)
    backlog = [entry(f"{number:05}", rank=number, key="site") for number in range(3000)]
    index.push(backlog)
    index.shut("site")

    assert index.take(["extract"], 10) == []
    assert len(index) <= 1000
    index.open("site")
    taken = names(index.take(["extract"], 1000))
    [request] = index.page_requests(["extract"])
    index.add_page(request, [each for each in backlog if each.rank > request.after])
    taken += names(index.take(["extract"], 5000))

    assert sorted(set(taken)) == names(backlog)


def test_heads_of_the_store_extend_an_empty_backlog_and_heal_a_held_one():
    index = ReadyIndex()
    index.add_heads("extract", "p", filled(3), whole=True)
    index.add_heads("extract", "p", [entry("lost", rank=-1), *filled(3)], whole=False)

    assert names(index.take(["extract"], 10)) == ["lost", "p00000", "p00001", "p00002"]
    assert list(index.page_requests(["extract"])) == []


def test_projects_that_come_and_go_are_forgotten():
    index = ReadyIndex()
    for number in range(5000):
        index.push([entry(f"j{number}", project=f"p{number}", rank=number)])
        index.take(["extract"], 1)

    assert len(index._types["extract"].backlogs) <= 1100
