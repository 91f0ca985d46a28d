"""Random names for leases, doubts about the index that outlive their process, markers of consistency tokens.

Relays of the release before cannot lease by the new column and fail until they are replaced; their intents wait.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LEASES = """
ALTER TABLE extractor.outbox
    ALTER COLUMN lease_token DROP DEFAULT,
    ALTER COLUMN lease_token DROP NOT NULL,
    ALTER COLUMN lease_token TYPE uuid USING NULL
"""

_COUNTED_LEASES = """
ALTER TABLE extractor.outbox
    ALTER COLUMN lease_token TYPE bigint USING 0,
    ALTER COLUMN lease_token SET NOT NULL,
    ALTER COLUMN lease_token SET DEFAULT 0
"""

_DOUBTS = "ALTER TABLE extractor.timeline ADD COLUMN suspect_time timestamptz"

# From which version on a fact has been waiting: a newer intent that takes the place of one leaves it as it is.
_WAITING = """
ALTER TABLE extractor.outbox ADD COLUMN since bigint;
UPDATE extractor.outbox SET since = version WHERE topic = 'fact';
CREATE INDEX outbox_waiting ON extractor.outbox (project_id, since) WHERE since IS NOT NULL
"""

# One marker per project: the highest version for which a token was given out, and the highest that was sent.
_MARKERS = """
CREATE TABLE extractor.markers (
    project_id uuid PRIMARY KEY,
    marker     uuid NOT NULL UNIQUE,
    issued     bigint NOT NULL,
    sent       bigint NOT NULL DEFAULT 0
);
CREATE INDEX markers_behind ON extractor.markers (project_id) WHERE sent < issued
"""


def upgrade() -> None:
    op.execute(_LEASES)
    op.execute(_DOUBTS)
    for script in (_WAITING, _MARKERS):
        for statement in script.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE extractor.markers")
    op.execute("ALTER TABLE extractor.outbox DROP COLUMN since")
    op.execute("ALTER TABLE extractor.timeline DROP COLUMN suspect_time")
    op.execute(_COUNTED_LEASES)
