"""Writes down what can never be applied, whatever its reason looks like.

Rejections come with texts of peers and providers, which may hold what the database cannot
store. They share a transaction with acknowledgements, so each attempt has a savepoint: a
rejection that is refused must neither undo what is recorded beside it nor come again and
again.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from services.extractor.application.ports import Repositories, StatementRefused
from services.extractor.domain.outbox import Rejection, Topic

logger = structlog.stdlib.get_logger(__name__)

_UNSPEAKABLE = "the reason holds what cannot be stored"


async def bury(repositories: Repositories, topic: Topic, rejections: Sequence[Rejection]) -> None:
    """All together; where the database refuses that, one by one, and at last without message and context."""
    if await _attempt(repositories, topic, rejections):
        return
    for each in rejections:
        if len(rejections) > 1 and await _attempt(repositories, topic, [each]):
            continue
        logger.error("rejection_without_its_reason", topic=topic.value, key=str(each.key), reason=each.reason.name)
        await repositories.outbox.bury(topic, [replace(each, message=_UNSPEAKABLE, context={})])


async def _attempt(repositories: Repositories, topic: Topic, rejections: Sequence[Rejection]) -> bool:
    try:
        async with repositories.savepoint():
            await repositories.outbox.bury(topic, rejections)
    except StatementRefused:
        return False
    return True
