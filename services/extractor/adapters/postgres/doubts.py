"""Doubts about the index, and which comparison ends one.

A doubt arises when the database goes on under another history, or the index is found ahead of it or to lack what it
acknowledged. What was sent before may still arrive then: a write whose outcome nobody waits for any more, or the
acknowledgement of one that is lost. A comparison ends the doubt only if it began later than that.
"""

from sqlalchemy import text

from services.extractor.domain.reconciliation import RunState

SUSPECT = text("UPDATE extractor.timeline SET suspect_time = now()")

# Above every version that a lost history can have issued: the time in microseconds is.
OUTRUN = text("""
SELECT setval('extractor.fact_versions', greatest(
    nextval('extractor.fact_versions'), CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)))
""")

COMPARED = f"r.state = {RunState.DONE:d} AND NOT r.dry_run"
"""That a row `r` of the reconciliations is a comparison that has ended well."""

DOUBT_TIME = "coalesce(greatest(t.notice_time, t.suspect_time), '-infinity')"
"""When the last doubt arose; `t` is the row of the timeline, or none."""

SETTLED_TIME = f"({DOUBT_TIME} + CAST(:settle AS interval))"
"""From when on a comparison that begins ends the last doubt."""

IN_DOUBT = f"""EXISTS (
    SELECT FROM extractor.timeline t
     WHERE isfinite({DOUBT_TIME}) AND NOT EXISTS (
        SELECT FROM extractor.reconciliations r WHERE {COMPARED} AND r.start_time >= {SETTLED_TIME}
     )
)"""
