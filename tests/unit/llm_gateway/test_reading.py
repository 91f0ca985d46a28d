"""What the linguistic provider finds in texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.llm_gateway.adapters.linguistic.findings import Category, EntityType, Findings
from services.llm_gateway.adapters.linguistic.reading import Reading


@pytest.fixture(scope="module")
def reading() -> Reading:
    return Reading()


def triples(findings: Findings) -> list[tuple[str, str, str]]:
    return [(fact.subject, fact.predicate, fact.object) for fact in findings.facts]


@pytest.mark.parametrize(
    ("sentence", "triple", "category"),
    [
        (
            "The Torvik Bridge is a suspension bridge in western Norway.",
            ("The Torvik Bridge", "is", "a suspension bridge in western Norway"),
            Category.DEFINITION,
        ),
        ("Workers spun the main cables in 1930.", ("Workers", "spun", "the main cables"), Category.EVENT),
        ("The card does not store journeys.", ("The card", "does not store", "journeys"), Category.RELATION),
        ("The software was written by Weichenwerk.", ("The software", "was written by", "Weichenwerk"), Category.EVENT),
        ("Each cable contains 1,904 steel wires.", ("Each cable", "contains", "1,904 steel wires"), Category.QUANTITY),
        ("The museum is located in Berlin.", ("The museum", "is located in", "Berlin"), Category.LOCATION),
        ("The festival took place in March.", ("The festival", "took place in", "March"), Category.EVENT),
        ("The company wants to build a tunnel.", ("The company", "wants to build", "a tunnel"), Category.RELATION),
    ],
)
def test_clauses_become_triples(
    reading: Reading, sentence: str, triple: tuple[str, str, str], category: Category
) -> None:
    (fact,) = reading.of(sentence).facts

    assert (fact.subject, fact.predicate, fact.object) == triple
    assert fact.category is category
    assert fact.statement == sentence


def test_each_clause_gives_a_statement_of_its_own_and_quotes_the_sentence(reading: Reading) -> None:
    text = "The bridge was completed in 1931 and has a main span of 348 metres."

    first, second = reading.of(text).facts

    assert first.statement == "The bridge was completed in 1931."
    assert second.statement == "The bridge has a main span of 348 metres."
    assert text[first.start : first.end] == text[second.start : second.end] == text


def test_relative_clause_speaks_of_its_antecedent(reading: Reading) -> None:
    found = triples(reading.of("Lorries use the Hellesund tunnel, which opened in 2004."))

    assert ("the Hellesund tunnel", "opened in", "2004") in found


def test_condition_is_no_statement(reading: Reading) -> None:
    assert triples(reading.of("The keeper closes the lock when the river reaches the mark.")) == [
        ("The keeper", "closes", "the lock")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "# The history of the bridge",
        "| The bridge | has | cables |",
        "Is the bridge open on Sundays?",
        "You can buy a ticket at the station.",
        "Copyright (c) 2026 The Company. All rights reserved.",
        "def bridge(self): return self.cables[0] + {'a': 1}",
        "Read more",
        "",
        "   \n\n ",
        "1234 5678 90",
        "🎉🎉🎉",
    ],
)
def test_what_is_no_statement_gives_no_fact(reading: Reading, text: str) -> None:
    assert reading.of(text).facts == ()


def test_entities_are_listed_once_with_their_type(reading: Reading) -> None:
    text = "Marie Curie was born in Warsaw in 1867. Marie Curie moved to Paris."

    entities = {entity.name: entity for entity in reading.of(text).entities}

    assert entities["Marie Curie"].type is EntityType.PERSON
    assert entities["Warsaw"].type is EntityType.PLACE
    assert entities["1867"].type is EntityType.DATE
    assert entities["Marie Curie"].start == 0
    assert all(text[entity.start : entity.end] == entity.name for entity in entities.values())


def test_chinese_is_read_by_rule(reading: Reading) -> None:
    text = "云溪湖是一座淡水湖，位于青岚县北部。青岚县成立于1950年。云溪银针由茶农赵德顺培育。你好吗？"

    findings = reading.of(text)

    assert triples(findings) == [
        ("云溪湖", "是", "一座淡水湖"),
        ("云溪湖", "位于", "青岚县北部"),
        ("青岚县", "成立于", "1950年"),
        ("云溪银针", "由", "茶农赵德顺培育"),
    ]
    assert findings.facts[1].statement == "云溪湖位于青岚县北部。"
    assert text[findings.facts[1].start : findings.facts[1].end] == "云溪湖是一座淡水湖，位于青岚县北部。"
    assert ("1950年", EntityType.DATE) in {(entity.name, entity.type) for entity in findings.entities}


def test_german_gives_facts_of_whole_sentences_that_start_with_their_subject(reading: Reading) -> None:
    text = (
        "Das Werk ist ein Denkmal im Süden von Thüringen. Die Stadt errichtete das Werk. Im Keller lebt eine Kolonie."
    )

    assert triples(reading.of(text)) == [
        ("Das Werk", "ist", "ein Denkmal im Süden von Thüringen"),
        ("Die Stadt", "errichtete", "das Werk"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "東京は日本の首都である。東京タワーは1958年に建てられた。",
        "Мост был построен в 1931 году. Он соединяет два берега.",
        "الجسر طويل جدا وهو في النرويج.",
    ],
)
def test_languages_without_rules_give_nothing_rather_than_nonsense(reading: Reading, text: str) -> None:
    assert reading.of(text).facts == ()


def test_mixed_scripts_and_emoji_do_not_shift_quotes(reading: Reading) -> None:
    text = "🏴󠁧󠁢󠁳󠁣󠁴󠁿 The studio drew the first sticker 👋🏽.\r\n\r\n云溪湖是一座湖。\n\nThe café\u0301 employs six people."

    quotes = [text[fact.start : fact.end] for fact in reading.of(text).facts]

    assert quotes == [
        "The studio drew the first sticker 👋🏽.",
        "云溪湖是一座湖。",
        "The café\u0301 employs six people.",
    ]


def test_reading_is_deterministic(reading: Reading) -> None:
    text = "The bridge was designed by Ragnhild Moe. It carries the road across the fjord."

    assert reading.of(text) == reading.of(text)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "The dam",
                "was built",
                "in 1931",
                ".",
                "和",
                "是",
                "湖",
                "。",
                "，",
                "\n\n",
                "👨‍👩‍👧",
                "é\u0301",
                "*",
                "Das Haus",
                "ist",
                "#",
                "a",
            ]
        ),
        max_size=30,
    )
)
def test_any_text_gives_quotes_that_lie_within_it(reading: Reading, words: list[str]) -> None:
    text = " ".join(words)

    findings = reading.of(text)

    for found in (*findings.facts, *findings.entities):
        assert 0 <= found.start < found.end <= len(text)
        assert text[found.start : found.end].strip()
    assert all(fact.subject and fact.predicate and fact.object and fact.statement for fact in findings.facts)
