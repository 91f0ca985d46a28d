"""Jobs, the ones that ended, the change log, and what steers dispatch."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Both job tables share these columns, in this order.
COLUMNS = """
    job_id uuid NOT NULL,
    parent_job_id uuid,
    retry_request_id uuid,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    schedule_time timestamptz NOT NULL,
    start_time timestamptz,
    deadline_time timestamptz,
    spec_hash bigint NOT NULL,
    fencing_token bigint NOT NULL DEFAULT 0,
    progress_completed bigint,
    progress_total bigint,
    state smallint NOT NULL,
    priority smallint NOT NULL,
    attempt smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL,
    stall_count smallint NOT NULL DEFAULT 0,
    max_stalls smallint NOT NULL,
    lease_end smallint NOT NULL DEFAULT 0,
    failure_reason smallint,
    failure_attempt smallint,
    failure_time timestamptz,
    cancel_requested boolean NOT NULL DEFAULT false,
    type text NOT NULL,
    project_id text NOT NULL,
    limit_key text NOT NULL DEFAULT '',
    traceparent text NOT NULL DEFAULT '',
    payload text NOT NULL,
    checkpoint text NOT NULL DEFAULT '',
    progress_message text,
    failure_message text,
    cancel_message text
"""

STATEMENTS = [
    # Waiting and running jobs only. `rank_time` is set exactly while a job is ready to be leased, `lease_expire_time`
    # exactly while it is leased. Partial indexes use these and never `state`, because the planner would prefer such an
    # index over the primary key in statements that fence by `state`, and then read all running jobs per job.
    f"""
    CREATE TABLE scheduler.jobs (
        {COLUMNS},
        rank_time timestamptz,
        lease_expire_time timestamptz,
        worker_id text NOT NULL DEFAULT '',
        PRIMARY KEY (job_id)
    ) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0,
            autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.2)
    """,
    "CREATE INDEX jobs_ready ON scheduler.jobs (type, project_id, rank_time, job_id) WHERE rank_time IS NOT NULL",
    """
    CREATE INDEX jobs_delayed ON scheduler.jobs (schedule_time)
    WHERE rank_time IS NULL AND lease_expire_time IS NULL
    """,
    "CREATE INDEX jobs_running ON scheduler.jobs (limit_key) WHERE lease_expire_time IS NOT NULL",
    "CREATE INDEX jobs_listed ON scheduler.jobs (project_id, create_time, job_id)",
    "CREATE INDEX jobs_children ON scheduler.jobs (parent_job_id) WHERE parent_job_id IS NOT NULL",
    # Append-only, one partition per span of time, dropped whole when it is too old.
    f"""
    CREATE TABLE scheduler.ended_jobs (
        {COLUMNS},
        end_time timestamptz NOT NULL,
        result text NOT NULL DEFAULT ''
    ) PARTITION BY RANGE (end_time)
    """,
    "CREATE INDEX ended_jobs_id ON scheduler.ended_jobs (job_id)",
    "CREATE INDEX ended_jobs_listed ON scheduler.ended_jobs (project_id, create_time, job_id)",
    """
    CREATE INDEX ended_jobs_unsuccessful ON scheduler.ended_jobs (state, project_id, create_time, job_id)
    WHERE state > 3
    """,
    "CREATE INDEX ended_jobs_children ON scheduler.ended_jobs (parent_job_id) WHERE parent_job_id IS NOT NULL",
    "CREATE INDEX ended_jobs_end ON scheduler.ended_jobs USING brin (end_time) WITH (pages_per_range = 32)",
    "CREATE TABLE scheduler.ended_jobs_default PARTITION OF scheduler.ended_jobs DEFAULT",
    # One row per transaction and kind of change, not per job. Read in the order of `xid` below the oldest transaction
    # that still runs, so that no row can appear behind a reader.
    """
    CREATE TABLE scheduler.job_changes (
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        number bigint GENERATED ALWAYS AS IDENTITY,
        change_time timestamptz NOT NULL DEFAULT now(),
        replica_id uuid NOT NULL,
        job_ids uuid[] NOT NULL,
        states smallint[] NOT NULL,
        deleted jsonb,
        PRIMARY KEY (xid, number)
    ) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)
    """,
    "CREATE INDEX job_changes_time ON scheduler.job_changes USING brin (change_time) WITH (pages_per_range = 16)",
    # The oldest position from which the log is whole.
    """
    CREATE TABLE scheduler.change_horizon (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        xid xid8 NOT NULL
    )
    """,
    "INSERT INTO scheduler.change_horizon (xid) VALUES (pg_current_xact_id())",
    "CREATE TABLE scheduler.paused_types (type text PRIMARY KEY, pause_time timestamptz NOT NULL DEFAULT now())",
    "CREATE TABLE scheduler.project_weights (project_id text PRIMARY KEY, weight double precision NOT NULL)",
    """
    CREATE TABLE scheduler.key_limits (
        limit_key text PRIMARY KEY,
        max_in_flight integer NOT NULL DEFAULT 0,
        max_per_second double precision NOT NULL DEFAULT 0,
        tokens double precision NOT NULL DEFAULT 0,
        refill_time timestamptz NOT NULL DEFAULT now(),
        gate_until_time timestamptz
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE TABLE scheduler.schedules (
        schedule_id text PRIMARY KEY,
        cron text NOT NULL,
        type text NOT NULL,
        project_id text NOT NULL,
        priority smallint NOT NULL,
        payload text NOT NULL,
        limit_key text NOT NULL,
        max_attempts smallint NOT NULL,
        missed_fire_policy smallint NOT NULL,
        paused boolean NOT NULL,
        next_fire_time timestamptz NOT NULL,
        last_fire_time timestamptz
    )
    """,
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in (
        "schedules",
        "key_limits",
        "project_weights",
        "paused_types",
        "change_horizon",
        "job_changes",
        "ended_jobs",
        "jobs",
    ):
        op.execute(f"DROP TABLE scheduler.{table}")
