"""Projects, sources and their versions, chunks, facts, entities, and the outbox."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_PROJECTS = """
CREATE TABLE extractor.projects (
    project_id       uuid PRIMARY KEY,
    display_name     text NOT NULL UNIQUE,
    description      text NOT NULL,
    schema           jsonb NOT NULL,
    model            text NOT NULL,
    grounding_policy text NOT NULL CHECK (grounding_policy IN ('drop', 'mark')),
    revision         bigint NOT NULL DEFAULT 1,
    request_id       uuid NOT NULL UNIQUE,
    request_hash     bytea NOT NULL,
    create_time      timestamptz NOT NULL DEFAULT now(),
    update_time      timestamptz NOT NULL DEFAULT now()
)
"""

_SOURCES = """
CREATE TABLE extractor.sources (
    source_id       uuid PRIMARY KEY,
    project_id      uuid NOT NULL REFERENCES extractor.projects,
    uri             text NOT NULL,
    version         bigint NOT NULL,
    visible_version bigint NOT NULL DEFAULT 0,
    create_time     timestamptz NOT NULL DEFAULT now(),
    update_time     timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, uri),
    CHECK (visible_version <= version)
);
CREATE INDEX sources_newest ON extractor.sources (project_id, create_time DESC, source_id DESC)
"""

# State and reason are numbers of the contract. The fence is the newest fencing token of the version's job.
_SOURCE_VERSIONS = """
CREATE TABLE extractor.source_versions (
    source_id    uuid NOT NULL REFERENCES extractor.sources ON DELETE CASCADE,
    version      bigint NOT NULL CHECK (version > 0),
    job_id       uuid NOT NULL UNIQUE,
    fence        bigint NOT NULL DEFAULT 0,
    state        smallint NOT NULL,
    reason       smallint NOT NULL DEFAULT 0,
    message      text NOT NULL DEFAULT '',
    title        text NOT NULL,
    group_name   text NOT NULL,
    media_type   text NOT NULL,
    content      bytea NOT NULL,
    content_hash bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    text         text,
    text_length  integer NOT NULL DEFAULT 0,
    create_time  timestamptz NOT NULL DEFAULT now(),
    start_time   timestamptz,
    end_time     timestamptz,
    PRIMARY KEY (source_id, version)
);
CREATE INDEX source_versions_open ON extractor.source_versions (state, create_time) WHERE end_time IS NULL
"""

_CHUNKS = """
CREATE TABLE extractor.chunks (
    source_id        uuid NOT NULL,
    version          bigint NOT NULL,
    chunk_index      integer NOT NULL,
    start_offset     integer NOT NULL,
    end_offset       integer NOT NULL CHECK (end_offset > start_offset),
    content_hash     bytea NOT NULL,
    fingerprint      text NOT NULL,
    state            smallint NOT NULL DEFAULT 1,
    result           jsonb,
    item_count       integer NOT NULL DEFAULT 0,
    ungrounded_count integer NOT NULL DEFAULT 0,
    attempts         integer NOT NULL DEFAULT 0,
    reason           smallint NOT NULL DEFAULT 0,
    message          text NOT NULL DEFAULT '',
    PRIMARY KEY (source_id, version, chunk_index),
    FOREIGN KEY (source_id, version) REFERENCES extractor.source_versions ON DELETE CASCADE
);
CREATE INDEX chunks_results ON extractor.chunks (source_id, content_hash) WHERE result IS NOT NULL
"""

# Every version of every fact comes from this one sequence, so that a fact that was deleted and found again goes on
# above its tombstone, although nothing of it is kept.
_FACT_VERSIONS = "CREATE SEQUENCE extractor.fact_versions"

# The id is derived from (source, group, item key), which makes these unique. A source cannot go while it has facts:
# they must be deleted by statements that leave tombstones in the outbox.
_EXTRACTIONS = """
CREATE TABLE extractor.extractions (
    extraction_id   uuid PRIMARY KEY,
    project_id      uuid NOT NULL,
    source_id       uuid NOT NULL REFERENCES extractor.sources,
    group_name      text NOT NULL,
    item_key        text NOT NULL,
    statement       text NOT NULL,
    category        text NOT NULL,
    field_values    jsonb NOT NULL,
    quote           text NOT NULL,
    start_offset    integer NOT NULL CHECK (start_offset >= 0),
    end_offset      integer NOT NULL,
    context_before  text NOT NULL,
    context_after   text NOT NULL,
    entities        text[] NOT NULL,
    confidence      double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    model           text NOT NULL,
    chunk_index     integer NOT NULL,
    version         bigint NOT NULL,
    content_hash    bytea NOT NULL CHECK (octet_length(content_hash) = 32),
    embedding_id    uuid,
    embedding_epoch bigint,
    extract_time    timestamptz NOT NULL DEFAULT now(),
    CHECK (end_offset > start_offset),
    CHECK (char_length(quote) = end_offset - start_offset)
);
CREATE INDEX extractions_by_position
    ON extractor.extractions (project_id, source_id, start_offset, extraction_id);
CREATE INDEX extractions_of_source ON extractor.extractions (source_id);
CREATE INDEX extractions_unindexed ON extractor.extractions (extract_time) WHERE embedding_id IS NULL
"""

# What a source calls an entity, and how often; entities themselves are groups of these rows.
_ENTITIES = """
CREATE TABLE extractor.entity_mentions (
    source_id     uuid NOT NULL REFERENCES extractor.sources ON DELETE CASCADE,
    entity_id     uuid NOT NULL,
    name          text NOT NULL,
    project_id    uuid NOT NULL,
    type          text NOT NULL,
    mention_count integer NOT NULL,
    PRIMARY KEY (source_id, entity_id, name)
);
CREATE INDEX entity_mentions_of_project ON extractor.entity_mentions (project_id, entity_id);
CREATE TABLE extractor.entity_links (
    extraction_id uuid NOT NULL REFERENCES extractor.extractions ON DELETE CASCADE,
    entity_id     uuid NOT NULL,
    project_id    uuid NOT NULL,
    PRIMARY KEY (extraction_id, entity_id)
);
CREATE INDEX entity_links_of_project ON extractor.entity_links (project_id, entity_id)
"""

# Intents to other services, at most one per fact or job; a newer one replaces its row. `due_time` is when a row may
# be leased: a lease and a backoff both move it on. A tombstone has no other row than this.
_OUTBOX = """
CREATE TABLE extractor.outbox (
    topic       text NOT NULL CHECK (topic IN ('fact', 'job')),
    key         uuid NOT NULL,
    operation   smallint NOT NULL,
    version     bigint NOT NULL,
    project_id  uuid NOT NULL,
    source_id   uuid NOT NULL,
    traceparent text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    due_time    timestamptz NOT NULL DEFAULT now(),
    attempts    integer NOT NULL DEFAULT 0,
    lease_owner text,
    lease_token bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, key)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_due ON extractor.outbox (topic, due_time);
CREATE TABLE extractor.dead_letters (
    topic      text NOT NULL CHECK (topic IN ('fact', 'job')),
    key        uuid NOT NULL,
    operation  smallint NOT NULL,
    version    bigint NOT NULL,
    project_id uuid NOT NULL,
    source_id  uuid NOT NULL,
    reason     smallint NOT NULL,
    message    text NOT NULL,
    attempts   integer NOT NULL,
    context    jsonb NOT NULL,
    fail_time  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, key)
);
CREATE INDEX dead_letters_newest ON extractor.dead_letters (fail_time DESC, key DESC)
"""

# Runs at the commit of every publish: no version becomes visible unless each fact of its source is verbatim in its
# text. The text is read once and cut into pages, because the cost of substr grows with the offset.
_VERBATIM = """
CREATE FUNCTION extractor.verify_quotes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    page_length CONSTANT integer := 20000;
    body text;
    longest integer;
    wrong uuid;
BEGIN
    SELECT v.text || '' INTO body FROM extractor.source_versions v
     WHERE v.source_id = NEW.source_id AND v.version = NEW.visible_version;
    SELECT max(e.end_offset - e.start_offset) INTO longest
      FROM extractor.extractions e WHERE e.source_id = NEW.source_id;
    WITH pages AS MATERIALIZED (
        SELECT p.page, substr(body, p.page * page_length + 1, page_length + longest) AS part
          FROM (SELECT DISTINCT e.start_offset / page_length AS page
                  FROM extractor.extractions e WHERE e.source_id = NEW.source_id) p
    )
    SELECT e.extraction_id INTO wrong
      FROM extractor.extractions e JOIN pages ON pages.page = e.start_offset / page_length
     WHERE e.source_id = NEW.source_id
       AND e.quote IS DISTINCT FROM
           substr(pages.part, e.start_offset % page_length + 1, e.end_offset - e.start_offset)
     LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the quote of fact % is not what the source says at its span', wrong
            USING ERRCODE = 'check_violation', CONSTRAINT = 'quotes_are_verbatim';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER quotes_are_verbatim
    AFTER UPDATE OF visible_version ON extractor.sources
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION extractor.verify_quotes()
"""


def upgrade() -> None:
    for table in (_PROJECTS, _SOURCES, _SOURCE_VERSIONS, _CHUNKS, _FACT_VERSIONS, _EXTRACTIONS, _ENTITIES, _OUTBOX):
        for statement in table.split(";\n"):
            op.execute(statement)
    function, _, trigger = _VERBATIM.partition("$$;\n")
    op.execute(f"{function}$$")
    op.execute(trigger)


def downgrade() -> None:
    op.execute("DROP SCHEMA extractor CASCADE")
