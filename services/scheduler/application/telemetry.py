"""What the scheduler measures. Names are a contract; dashboards and alerts use them."""

from collections import Counter
from collections.abc import Sequence

from services.scheduler.application.ports import DurationStats, Ended, QueueStats
from services.scheduler.domain.job import JobState
from services.shared.telemetry.metrics import Metrics

_BATCH_BUCKETS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


class SchedulerMetrics:
    def __init__(self, metrics: Metrics) -> None:
        by_type = ("type",)
        self._completed = metrics.counter(
            "scristill_jobs_completed_total", "Jobs that reached SUCCEEDED.", labels=by_type
        )
        self._ended = metrics.counter(
            "scristill_jobs_ended_total", "Jobs that reached a terminal state.", labels=("type", "state")
        )
        self._expired = metrics.counter(
            "scristill_job_lease_expiries_total", "Leases that ran out, each one a stall.", labels=by_type
        )
        self.claim_batch = metrics.histogram(
            "scristill_job_claim_batch_size", "Jobs leased by one claim statement.", buckets=_BATCH_BUCKETS
        )
        self.claim_seconds = metrics.histogram("scristill_job_claim_seconds", "Duration of a claim statement.")
        self.in_memory = metrics.gauge("scristill_jobs_ready_in_memory", "Ready jobs held by this replica.")
        self.watchers = metrics.gauge("scristill_job_watchers", "Open WatchJobs streams.")
        self.watch_lag = metrics.gauge(
            "scristill_job_watch_lag_seconds", "Age of the newest change when watchers got it.", mode="livemax"
        )
        gauges = [
            ("ready", "scristill_jobs_ready", "Jobs that may run now."),
            ("scheduled", "scristill_jobs_scheduled", "Jobs that wait for their time."),
            ("in_flight", "scristill_jobs_in_flight", "Jobs leased to a worker."),
            ("dead", "scristill_jobs_dead", "Dead jobs that are still kept."),
            ("oldest", "scristill_jobs_oldest_ready_age_seconds", "Age of the oldest job that may run now."),
            ("average", "scristill_job_duration_seconds_avg", "Mean from first lease to end."),
            ("minimum", "scristill_job_duration_seconds_min", "Shortest from first lease to end."),
            ("maximum", "scristill_job_duration_seconds_max", "Longest from first lease to end."),
        ]
        # The same rows are read by every replica, so the latest value stands for all.
        self._gauges = {
            key: metrics.gauge(name, description, labels=by_type, mode="livemostrecent")
            for key, name, description in gauges
        }

    def count_ended(self, ended: Sequence[Ended]) -> None:
        for (job_type, state), count in Counter((each.type, each.state) for each in ended).items():
            self._ended.labels(job_type, state.name).inc(count)
            if state is JobState.SUCCEEDED:
                self._completed.labels(job_type).inc(count)

    def count_expired(self, types: Sequence[str]) -> None:
        for job_type, count in Counter(types).items():
            self._expired.labels(job_type).inc(count)

    def show_queues(self, queues: Sequence[QueueStats]) -> None:
        """Takes in the rows of all types; types that are gone lose their series."""
        for key in ("ready", "scheduled", "in_flight", "dead", "oldest"):
            self._gauges[key].clear()
        for row in queues:
            if not row.project_id:
                self._gauges["ready"].labels(row.type).set(row.ready_count)
                self._gauges["scheduled"].labels(row.type).set(row.scheduled_count)
                self._gauges["in_flight"].labels(row.type).set(row.running_count)
                self._gauges["dead"].labels(row.type).set(row.dead_count)
                age = row.oldest_ready_age.total_seconds() if row.oldest_ready_age else 0.0
                self._gauges["oldest"].labels(row.type).set(age)

    def show_durations(self, durations: Sequence[DurationStats]) -> None:
        for key in ("average", "minimum", "maximum"):
            self._gauges[key].clear()
        for row in durations:
            self._gauges["average"].labels(row.type).set(row.average.total_seconds())
            self._gauges["minimum"].labels(row.type).set(row.minimum.total_seconds())
            self._gauges["maximum"].labels(row.type).set(row.maximum.total_seconds())
