"""Chinese by rule: sentences at 。！？；, clauses at ，, a predicate from a short list.

`X是Y`, `X位于Y`, `X成立于Y`, `X由Y设计`, `X有Y`, and any verb with 了. A clause without a
subject takes that of the clause before. Coarse, but what it gives stands in the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.llm_gateway.adapters.linguistic.findings import Category, Entity, EntityType, Fact
from services.llm_gateway.adapters.linguistic.passages import Passage

_SENTENCE = re.compile(r"[^。！？；!?;]+[。！？；!?;]*[”’」』）)]*")
_CLAUSE = re.compile(r"[^，,：:]+")
_STRIP = ' 　\t，。！？；：!?;:、“”"‘’「」'
_TIME = re.compile(
    r"^(?:(?:公元前?)?[\d〇一二三四五六七八九十]{2,4}年(?:[\d一二三四五六七八九十]{1,3}月)?(?:[\d一二三四五六七八九十]{1,3}日)?"
    r"|每年\w{0,6}?月|目前|如今|当时|后来|此后|同年|今年|去年|自\w{2,8}以来|到\d{4}年|节日当晚|其中)\s*"
)
_HAN = "\u4e00-\u9fff"

_CATEGORIES: tuple[tuple[Category, str], ...] = (
    (Category.LOCATION, "位于|坐落于|坐落在|地处|流入|流经|流向|毗邻|到达|距(?!离)"),
    (
        Category.EVENT,
        "成立于|始建于|建于|创立于|创建于|形成于|出生于|生于|逝世于|毕业于|落成于|发生于|起源于|被列[入为]|被评为|被任命为",
    ),
    (
        Category.EVENT,
        "[于在]\\d{4}年(?!被)",
    ),
    (Category.RELATION, "由(?=[^于此])|属于|来自|隶属于|源于|包括|包含|担任|生长着|使(?!用)|出产|生产|销售|种植|连接"),
    (
        Category.DEFINITION,
        "被称为|被誉为|称为|又称|(?<![但于可还或若只正总凡要既不都])是(?!否)",
    ),
    (
        Category.QUANTITY,
        "(?:下降到|恢复到|上升到|增加到|达到|高达|约为|约有|(?<!到)达|约(?=[\\d一二三四五六七八九十两]))",
    ),
    (Category.EVENT, f"(?:重新|首次)?[{_HAN}]{{1,2}}了(?!解)"),
    (
        Category.PROPERTY,
        "拥有|具有|设有|(?<![没具拥所只特含占享设约还])有(?![关些时效限])|(?<![因认成作称分以视行])为(?!了)|成为",
    ),
)
_PREDICATE = re.compile("|".join(f"(?P<c{number}>{pattern})" for number, (_, pattern) in enumerate(_CATEGORIES)))
_NO_SUBJECT = re.compile(r"^(?:这|那|它|此|并|也|还|但|而|却|又|则|都|就|如果|因为|由于|虽然|为了|当|在|从|对|把|将)")
_NUMBER = re.compile(r"[\d〇一二三四五六七八九十百千万亿两]")
_TRAILING = re.compile(r"(?:也|还|又|则|都|就|已经|曾|曾经|现|共|均|一共|于)+$")

_MAX_SUBJECT = 24
_MAX_OBJECT = 60

_FUNCTION = (
    "的是在于有和与及由从到向为被把将了着过这那该其约每第年月日以而并但也都就还又再各某当附近中距达使入经个座四区列"
)
_NAME = f"(?:(?![{_FUNCTION}])[{_HAN}]){{1,8}}?"
_ENTITIES: tuple[tuple[EntityType, re.Pattern[str]], ...] = (
    (EntityType.WORK, re.compile(r"《[^》]{1,40}》")),
    (
        EntityType.DATE,
        re.compile(r"(?:公元前?)?[\d一二三四五六七八九〇]{4}年(?:\d{1,2}月(?:\d{1,2}日)?)?|\d{1,2}月\d{1,2}日"),
    ),
    (
        EntityType.QUANTITY,
        re.compile(
            r"(?:\d[\d,.]*|[一二三四五六七八九十百千万亿两〇]{2,})(?:多|余)?[万亿]?"
            r"(?:平方公里|立方米|平方米|公里|千米|厘米|毫米|摄氏度|公斤|千克|吨|米|元|％|%|人|座|只|件|盏|尾|公顷|小时|分钟)"
        ),
    ),
    (
        EntityType.ORGANIZATION,
        re.compile(f"{_NAME}(?:大学|学院|公司|集团|研究所|研究站|博物馆|图书馆|委员会|银行|医院|政府|协会|出版社)"),
    ),
    (
        EntityType.PLACE,
        re.compile(
            f"(?:(?![{_FUNCTION}])[{_HAN}]){{1,4}}?(?:山脉|省|市|县|区|镇|村|湖|江|河|岛|海|山)(?![{_HAN}]?站|产)"
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Triple:
    subject: str
    predicate: str
    object: str
    category: Category


def facts(passage: Passage) -> Iterator[Fact]:
    for sentence in _SENTENCE.finditer(passage.text):
        text = sentence.group().strip()
        if not text or text.endswith(("？", "?")):
            continue
        start = sentence.start() + sentence.group().index(text)
        span = passage.span(start, start + len(text))
        yield from _facts_of(text, span)


def _facts_of(sentence: str, span: tuple[int, int]) -> Iterator[Fact]:
    subject = ""
    time = ""
    pieces = [piece.strip(_STRIP) for piece in _CLAUSE.findall(sentence)]
    for piece in pieces:
        leading = _TIME.match(piece)
        if leading and leading.end() == len(piece):
            time = f"{piece}，"
            continue
        triple = _triple(piece, subject)
        if triple is None:
            time = ""
            continue
        borrowed = not piece[leading.end() if leading else 0 :].startswith(triple.subject)
        statement = f"{time}{triple.subject if borrowed else ''}{piece}。"
        yield Fact(
            subject=triple.subject,
            predicate=triple.predicate,
            object=triple.object,
            statement=sentence if len(pieces) == 1 else statement,
            category=triple.category,
            start=span[0],
            end=span[1],
        )
        subject, time = triple.subject, ""


def _triple(clause: str, subject_before: str) -> _Triple | None:
    leading = _TIME.match(clause)
    offset = leading.end() if leading else 0
    for found in _PREDICATE.finditer(clause, offset):
        own = _TRAILING.sub("", clause[offset : found.start()]).strip(_STRIP)
        target = clause[found.end() :].strip(_STRIP)
        subject = subject_before if not own or _NO_SUBJECT.match(own) else own
        if subject and target and len(subject) <= _MAX_SUBJECT and len(target) <= _MAX_OBJECT:
            return _Triple(subject=subject, predicate=found.group(), object=target, category=_category(found, target))
    return None


def _category(found: re.Match[str], target: str) -> Category:
    number = int((found.lastgroup or "c0")[1:])
    category = _CATEGORIES[number][0]
    counted = category is Category.PROPERTY and _NUMBER.match(target) is not None
    return Category.QUANTITY if counted else category


def entities(passage: Passage) -> Iterator[Entity]:
    taken: list[tuple[int, int]] = []
    for kind, pattern in _ENTITIES:
        for found in pattern.finditer(passage.text):
            start, end = found.span()
            if end - start < 2 or any(start < other_end and end > other for other, other_end in taken):  # noqa: PLR2004 - one character names nothing
                continue
            taken.append((start, end))
            span = passage.span(start, end)
            yield Entity(name=found.group(), type=kind, start=span[0], end=span[1])
