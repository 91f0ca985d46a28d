"""Intents that were put off because the index was away can be told from others, to be sent when it is back."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE extractor.outbox ADD COLUMN away boolean NOT NULL DEFAULT false")
    op.execute("CREATE INDEX outbox_away ON extractor.outbox (due_time) WHERE away")


def downgrade() -> None:
    op.execute("ALTER TABLE extractor.outbox DROP COLUMN away")
