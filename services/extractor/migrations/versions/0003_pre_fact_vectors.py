"""Vectors of facts, so that an index that was lost is filled again without a model."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Floats do not compress, so nothing may try to. A vector is that of its fact while the hash is that of the statement.
_VECTORS = """
CREATE TABLE extractor.fact_vectors (
    extraction_id  uuid NOT NULL REFERENCES extractor.extractions ON DELETE CASCADE,
    model          text NOT NULL,
    statement_hash bytea NOT NULL CHECK (octet_length(statement_hash) = 16),
    vector         bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (extraction_id, model)
)
"""


def upgrade() -> None:
    op.execute(_VECTORS)


def downgrade() -> None:
    op.execute("DROP TABLE extractor.fact_vectors")
