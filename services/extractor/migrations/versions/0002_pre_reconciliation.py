"""Runs of the reconciliation, what they found, and the certificate that each leaves."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# One run at a time over all replicas, held by the unique index. A run whose owner is gone goes on at `next_bucket`.
_RUNS = """
CREATE TABLE extractor.reconciliations (
    run_id        uuid PRIMARY KEY,
    epoch         bigint NOT NULL,
    dry_run       boolean NOT NULL,
    pace          integer NOT NULL,
    state         smallint NOT NULL CHECK (state IN (1, 2, 3)),
    owner         text NOT NULL,
    lease_time    timestamptz NOT NULL,
    next_bucket   integer NOT NULL DEFAULT 0,
    differing     integer NOT NULL DEFAULT 0,
    fact_count    bigint NOT NULL DEFAULT 0,
    point_count   bigint NOT NULL DEFAULT 0,
    fact_digest   bytea NOT NULL DEFAULT decode('00000000000000000000000000000000', 'hex'),
    point_digest  bytea NOT NULL DEFAULT decode('00000000000000000000000000000000', 'hex'),
    drift_counts  jsonb NOT NULL DEFAULT '{}',
    repaired      bigint NOT NULL DEFAULT 0,
    watermark     bigint NOT NULL,
    start_time    timestamptz NOT NULL DEFAULT now(),
    end_time      timestamptz
);
CREATE UNIQUE INDEX reconciliations_one_at_a_time ON extractor.reconciliations ((true)) WHERE state = 1;
CREATE INDEX reconciliations_newest ON extractor.reconciliations (start_time DESC);
CREATE TABLE extractor.drifts (
    run_id          uuid NOT NULL REFERENCES extractor.reconciliations ON DELETE CASCADE,
    number          bigint GENERATED ALWAYS AS IDENTITY,
    fact_id         uuid NOT NULL,
    kind            smallint NOT NULL,
    stored_version  bigint NOT NULL,
    indexed_version bigint NOT NULL,
    repaired        boolean NOT NULL,
    PRIMARY KEY (run_id, number),
    UNIQUE (run_id, fact_id)
)
"""

# Which history of the database this is. A restore to an earlier time, or a failover, goes on under another timeline.
_TIMELINE = """
CREATE TABLE extractor.timeline (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier text NOT NULL,
    timeline_id       bigint NOT NULL,
    notice_time       timestamptz NOT NULL DEFAULT now()
)
"""


def upgrade() -> None:
    op.execute(_TIMELINE)
    for statement in _RUNS.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE extractor.drifts")
    op.execute("DROP TABLE extractor.reconciliations")
    op.execute("DROP TABLE extractor.timeline")
