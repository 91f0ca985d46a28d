"""What the gateway keeps of a source can be deleted: the source's incarnation names it, the outbox carries the wish.

The table of sources is written anew, which takes as long as reading it.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A source that was deleted and came again under the same id has another incarnation, and so have its model calls.
_INCARNATION = "ALTER TABLE extractor.sources ADD COLUMN incarnation uuid NOT NULL DEFAULT gen_random_uuid()"

_TOPICS = """
ALTER TABLE extractor.outbox
    DROP CONSTRAINT outbox_topic_check,
    ADD CONSTRAINT outbox_topic_check CHECK (topic IN ('fact', 'job', 'cache'))
"""

_TOPICS_BEFORE = """
ALTER TABLE extractor.outbox
    DROP CONSTRAINT outbox_topic_check,
    ADD CONSTRAINT outbox_topic_check CHECK (topic IN ('fact', 'job'))
"""


def upgrade() -> None:
    op.execute(_INCARNATION)
    op.execute(_TOPICS)


def downgrade() -> None:
    op.execute("DELETE FROM extractor.outbox WHERE topic = 'cache'")
    op.execute(_TOPICS_BEFORE)
    op.execute("ALTER TABLE extractor.sources DROP COLUMN incarnation")
