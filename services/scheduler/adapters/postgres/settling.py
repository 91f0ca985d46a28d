"""The one statement shape that ends or requeues many held jobs: fail, release, expire and cancel.

A caller supplies the CTE `verdict`, one locked row per job with what shall become of it.
The tail applies the verdicts: back to PENDING in place, or out of `jobs` into
`ended_jobs`, with one row in the change log for all of them.
"""

from services.scheduler.adapters.postgres.rows import columns
from services.scheduler.application.ports import RAN_OUT

# Columns of `verdict`: job_id, fencing_token, next_state, attempt, stall_count, lease_end, delay, checkpoint,
# failure_reason, failure_message, failure_attempt, cancel_message. NULL in the last five means no change.
_CHANGED = (
    "state",
    "attempt",
    "stall_count",
    "lease_end",
    "update_time",
    "cancel_requested",
    "checkpoint",
    "failure_reason",
    "failure_message",
    "failure_attempt",
    "failure_time",
    "cancel_message",
)
_KEPT = columns("j", without=_CHANGED)
_KEPT_NAMES = ", ".join(part.split(".", 1)[1] for part in _KEPT.split(", "))
_FAILURE = """
    coalesce(v.failure_reason, j.failure_reason) AS failure_reason,
    coalesce(v.failure_message, j.failure_message) AS failure_message,
    coalesce(v.failure_attempt, j.failure_attempt) AS failure_attempt,
    CASE WHEN v.failure_reason IS NULL THEN j.failure_time ELSE now() END AS failure_time"""


def settle(held_and_verdict: str, *, replica: str, ageing: str, ran_out: bool = False) -> str:
    """`replica` and `ageing` name the parameters for this replica's id and the rank penalty per priority step.

    `ran_out` notes in the change log that the leases were not ended by their holders.
    """
    noted = ("array_agg(job_id) || ", f"array_agg(({RAN_OUT})::smallint) || ") if ran_out else ("", "")
    return f"""
WITH {held_and_verdict},
requeued AS (
    UPDATE scheduler.jobs j SET
        state = 1, worker_id = '', lease_expire_time = NULL,
        attempt = v.attempt, stall_count = v.stall_count, lease_end = v.lease_end,
        schedule_time = now() + v.delay,
        rank_time = CASE WHEN v.delay <= interval '0' THEN now() + j.priority * {ageing}::interval END,
        checkpoint = coalesce(v.checkpoint, j.checkpoint),
        failure_reason = coalesce(v.failure_reason, j.failure_reason),
        failure_message = coalesce(v.failure_message, j.failure_message),
        failure_attempt = coalesce(v.failure_attempt, j.failure_attempt),
        failure_time = CASE WHEN v.failure_reason IS NULL THEN j.failure_time ELSE now() END,
        update_time = now()
    FROM verdict v WHERE j.job_id = v.job_id AND v.next_state = 1
    RETURNING j.job_id, j.rank_time
),
removed AS (
    DELETE FROM scheduler.jobs j USING verdict v
    WHERE j.job_id = v.job_id AND v.next_state > 2
    RETURNING {_KEPT}, v.next_state, v.attempt, v.stall_count, v.lease_end, {_FAILURE},
        coalesce(v.checkpoint, j.checkpoint) AS checkpoint,
        j.cancel_requested OR v.next_state = 5 AS cancel_requested,
        coalesce(v.cancel_message, j.cancel_message) AS cancel_message
),
ended AS (
    INSERT INTO scheduler.ended_jobs
        ({_KEPT_NAMES}, state, attempt, stall_count, lease_end, update_time, cancel_requested, checkpoint,
         failure_reason, failure_message, failure_attempt, failure_time, cancel_message, end_time)
    SELECT {_KEPT_NAMES}, next_state, attempt, stall_count, lease_end, now(), cancel_requested, checkpoint,
        failure_reason, failure_message, failure_attempt, failure_time, cancel_message, now()
    FROM removed
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT {replica}::uuid, {noted[0]}array_agg(job_id), {noted[1]}array_agg(next_state)
    FROM verdict HAVING count(*) > 0
)
SELECT v.job_id, v.type, v.project_id, r.rank_time, v.limit_key, v.next_state, v.start_time, now(), v.fencing_token
FROM verdict v LEFT JOIN requeued r USING (job_id)
"""


FAIL = settle(
    """
held AS (
    SELECT j.job_id, j.fencing_token, j.attempt, j.max_attempts, j.stall_count, j.cancel_requested, j.deadline_time,
        j.type, j.project_id, j.limit_key, j.start_time, i.permanent, i.reason, i.message,
        coalesce(i.delay_seconds,
            i.jitter * least(coalesce(p.backoff_base, $11) * 2.0 ^ least(j.attempt - 1, 32),
                             coalesce(p.backoff_cap, $12))) AS delay_seconds
    FROM unnest($1::uuid[], $2::bigint[], $3::boolean[], $4::int[], $5::text[], $6::float8[], $7::float8[])
        AS i(job_id, fencing_token, permanent, reason, message, delay_seconds, jitter)
    JOIN scheduler.jobs j ON j.job_id = i.job_id
    LEFT JOIN unnest($8::text[], $9::float8[], $10::float8[]) AS p(type, backoff_base, backoff_cap) ON p.type = j.type
    WHERE j.state = 2 AND j.fencing_token = i.fencing_token
    ORDER BY j.job_id FOR UPDATE OF j
),
verdict AS (
    SELECT job_id, fencing_token, type, project_id, limit_key, start_time,
        (CASE WHEN permanent THEN 4
              WHEN attempt >= max_attempts OR now() + make_interval(secs => delay_seconds) >= deadline_time THEN 6
              WHEN cancel_requested THEN 5
              ELSE 1 END)::smallint AS next_state,
        attempt, stall_count, 2::smallint AS lease_end, make_interval(secs => delay_seconds) AS delay,
        NULL::text AS checkpoint, reason::smallint AS failure_reason, message AS failure_message,
        attempt AS failure_attempt, NULL::text AS cancel_message
    FROM held
)""",
    replica="$13",
    ageing="$14",
)

RELEASE = settle(
    """
held AS (
    SELECT j.job_id, j.fencing_token, j.attempt, j.stall_count, j.cancel_requested,
        j.type, j.project_id, j.limit_key, j.start_time,
        i.delay_seconds, i.checkpoint
    FROM unnest($1::uuid[], $2::bigint[], $3::float8[], $4::text[])
        AS i(job_id, fencing_token, delay_seconds, checkpoint)
    JOIN scheduler.jobs j ON j.job_id = i.job_id
    WHERE j.state = 2 AND j.fencing_token = i.fencing_token
    ORDER BY j.job_id FOR UPDATE OF j
),
verdict AS (
    SELECT job_id, fencing_token, type, project_id, limit_key, start_time,
        (CASE WHEN cancel_requested THEN 5 ELSE 1 END)::smallint AS next_state,
        (attempt - 1)::smallint AS attempt, stall_count, 3::smallint AS lease_end,
        make_interval(secs => delay_seconds) AS delay, nullif(checkpoint, '') AS checkpoint,
        NULL::smallint AS failure_reason, NULL::text AS failure_message, NULL::smallint AS failure_attempt,
        NULL::text AS cancel_message
    FROM held
)""",
    replica="$5",
    ageing="$6",
)

EXPIRE = settle(
    """
held AS (
    SELECT j.job_id, j.fencing_token, j.attempt, j.stall_count, j.max_stalls, j.cancel_requested, j.deadline_time,
        j.type, j.project_id, j.limit_key, j.start_time
    FROM scheduler.jobs j
    WHERE j.lease_expire_time < now()
    ORDER BY j.job_id LIMIT $1 FOR UPDATE OF j SKIP LOCKED
),
judged AS (
    SELECT *, CASE WHEN deadline_time <= now() THEN 12 WHEN stall_count + 1 >= max_stalls THEN 30 END AS dead_reason
    FROM held
),
verdict AS (
    SELECT job_id, fencing_token, type, project_id, limit_key, start_time,
        (CASE WHEN dead_reason IS NOT NULL THEN 6 WHEN cancel_requested THEN 5 ELSE 1 END)::smallint AS next_state,
        (attempt - 1)::smallint AS attempt, (stall_count + 1)::smallint AS stall_count, 4::smallint AS lease_end,
        interval '0' AS delay, NULL::text AS checkpoint, dead_reason::smallint AS failure_reason,
        CASE dead_reason WHEN 12 THEN 'the total deadline has passed'
                         WHEN 30 THEN 'the job was abandoned too often' END AS failure_message,
        CASE WHEN dead_reason IS NOT NULL THEN attempt END AS failure_attempt, NULL::text AS cancel_message
    FROM judged
)""",
    replica="$2",
    ageing="$3",
    ran_out=True,
)

CANCEL = settle(
    """
held AS (
    SELECT j.job_id, j.fencing_token, j.state, j.attempt, j.stall_count, j.lease_end,
        j.type, j.project_id, j.limit_key, j.start_time
    FROM scheduler.jobs j
    WHERE j.job_id = ANY($1::uuid[]) AND NOT j.cancel_requested
    ORDER BY j.job_id FOR UPDATE OF j
),
verdict AS (
    SELECT job_id, fencing_token, type, project_id, limit_key, start_time,
        (CASE state WHEN 1 THEN 5 ELSE 2 END)::smallint AS next_state, attempt, stall_count, lease_end,
        interval '0' AS delay, NULL::text AS checkpoint, NULL::smallint AS failure_reason,
        NULL::text AS failure_message, NULL::smallint AS failure_attempt, nullif($2, '') AS cancel_message
    FROM held
),
asked AS (
    UPDATE scheduler.jobs j SET cancel_requested = true, cancel_message = v.cancel_message, update_time = now()
    FROM verdict v WHERE j.job_id = v.job_id AND v.next_state = 2
)""",
    replica="$3",
    ageing="$4",
)
