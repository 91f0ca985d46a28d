"""What the index acknowledged last, to see whether it still holds it."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The last acknowledgement of each second and relay, until the index has been seen to hold it.
_WITNESSES = """
CREATE TABLE extractor.witnesses (
    owner    text NOT NULL,
    second   bigint NOT NULL,
    fact_id  uuid NOT NULL,
    version  bigint NOT NULL,
    PRIMARY KEY (owner, second)
)
"""

# Markers that an index which has lost something may have lost too.
_RESEND = """
ALTER TABLE extractor.markers ADD COLUMN resend boolean NOT NULL DEFAULT false;
DROP INDEX extractor.markers_behind;
CREATE INDEX markers_behind ON extractor.markers (project_id) WHERE sent < issued OR resend
"""

_NO_RESEND = """
DROP INDEX extractor.markers_behind;
ALTER TABLE extractor.markers DROP COLUMN resend;
CREATE INDEX markers_behind ON extractor.markers (project_id) WHERE sent < issued
"""


def upgrade() -> None:
    op.execute(_WITNESSES)
    for statement in _RESEND.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    for statement in _NO_RESEND.split(";\n"):
        op.execute(statement)
    op.execute("DROP TABLE extractor.witnesses")
