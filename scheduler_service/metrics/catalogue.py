"""The metrics of one replica: their names, kinds, labels and meanings.

Labels come from the configuration (`job_id`) or from a fixed list.  A job's label is not called `job`, and a
replica's not `instance`: Prometheus gives both names to whatever it scrapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COUNTER, GAUGE, HISTOGRAM, SUMMARY = "counter", "gauge", "histogram", "summary"

DELAY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)
DURATION_BUCKETS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """What one metric is."""

    kind: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


def _metric(kind: str, labels: str, meaning: str, buckets: tuple[float, ...] = ()) -> Metric:
    return Metric(kind, tuple(labels.split()), meaning, buckets)


CATALOGUE: Mapping[str, Metric] = {
    # the replica
    "scheduler_build_info": _metric(GAUGE, "version python_version", "Always 1; what runs."),
    "scheduler_replica_info": _metric(GAUGE, "instance_id lock_id service", "Always 1; which replica this is."),
    "scheduler_jobs": _metric(GAUGE, "", "Jobs in this replica's configuration that are enabled."),
    "scheduler_thread_step_age_seconds": _metric(
        GAUGE,
        "thread",
        "Seconds since a thread of the service took a step; beyond the lease's length it is stuck or connects.",
    ),
    # leadership
    "scheduler_leader": _metric(GAUGE, "", "1 while this replica may act as leader, else 0."),
    "scheduler_term": _metric(GAUGE, "", "The term of the leader as this replica knows it; 0 without a leader."),
    "scheduler_lease_trust_remaining_seconds": _metric(
        GAUGE, "", "For how long this replica may still act without another renewal; 0 on a standby."
    ),
    "scheduler_lease_renewals_total": _metric(COUNTER, "result", "Attempts to renew the lease: ok, failed."),
    "scheduler_leadership_changes_total": _metric(
        COUNTER,
        "change reason",
        "Terms of this replica that began (elected, by how it was won), ended (lost, released), or were in doubt "
        "(suspect, resumed).",
    ),
    "scheduler_leader_idle": _metric(
        GAUGE, "", "1 while a leader renews its lease, but left a tick undecided for over twice its grace."
    ),
    "scheduler_oldest_unsettled_tick_age_seconds": _metric(
        GAUGE, "", "For how long the oldest tick that is not decided has been due; 0 if all are."
    ),
    "scheduler_replicas": _metric(GAUGE, "", "Replicas that have signed in lately, this one included."),
    # the database
    "scheduler_clock_difference_seconds": _metric(
        GAUGE, "", "How far the database's clock is ahead of this machine's."
    ),
    "scheduler_store_unavailable": _metric(GAUGE, "part", "1 while the database does not answer this part, else 0."),
    "scheduler_store_outages_total": _metric(COUNTER, "part", "Outages of the database, as this part met them."),
    "scheduler_store_outage_seconds_total": _metric(COUNTER, "part", "Seconds of such outages that are over."),
    "scheduler_statements_fenced_total": _metric(
        COUNTER, "statement", "Statements that the database refused because their term was over."
    ),
    "scheduler_sample_age_seconds": _metric(
        GAUGE, "", "How old the sample of the ledger is from which metrics of the whole service come."
    ),
    # ticks
    "scheduler_ticks_total": _metric(
        COUNTER,
        "job_id decision reason",
        "Ticks by what this replica decided, as leader: run (on_time, catch_up), missed, skipped. More than ten in a "
        "row with one decision count as one.",
    ),
    "scheduler_start_delay_seconds": _metric(
        HISTOGRAM,
        "kind",
        "From the moment at which a run was due to its start: scheduled, catch_up, manual.",
        DELAY_BUCKETS,
    ),
    # runs
    "scheduler_runs_total": _metric(
        COUNTER, "job_id state", "Runs that ended here: succeeded, failed, timed_out, cancelled; or were found lost."
    ),
    "scheduler_run_retries_total": _metric(COUNTER, "job_id", "Attempts that failed here and are made again."),
    "scheduler_attempts_lost_total": _metric(
        COUNTER, "job_id", "Attempts of vanished replicas that this one, as leader, closed."
    ),
    "scheduler_run_duration_seconds": _metric(
        HISTOGRAM, "state", "How long attempts took, all jobs together, by how they ended.", DURATION_BUCKETS
    ),
    "scheduler_job_run_duration_seconds": _metric(SUMMARY, "job_id", "How long a job's attempts took: count and sum."),
    "scheduler_runs_waiting": _metric(GAUGE, "", "Runs of the whole service that wait to be started."),
    "scheduler_runs_due": _metric(
        GAUGE, "", "Those of them whose time has come: for a worker, a slot, a resume, or a leader that has their job."
    ),
    "scheduler_runs_running": _metric(GAUGE, "", "Runs of the whole service that go on."),
    # workers
    "scheduler_attempts_running": _metric(GAUGE, "", "Attempts that this replica runs or has not recorded yet."),
    "scheduler_workers_free": _metric(GAUGE, "", "Runs that this replica could start now."),
    "scheduler_processes_free": _metric(GAUGE, "", "Those of them that may be in processes of their own."),
    "scheduler_results_unwritten": _metric(GAUGE, "", "Results of this replica that are not in the database yet."),
    "scheduler_results_damaged_total": _metric(
        COUNTER, "job_id", "Results that the database took only in part, or refused."
    ),
    "scheduler_threads_stuck": _metric(
        GAUGE, "", "Functions on this replica that are over their time-out and have not returned."
    ),
    "scheduler_job_threads_stuck": _metric(GAUGE, "job_id", "The same by job; only for jobs that have some."),
    # jobs, as every replica sees them
    "scheduler_job_last_success_age_seconds": _metric(
        GAUGE, "job_id", "Seconds since a job succeeded; if it never did, since it was first accounted for."
    ),
    "scheduler_job_success_overdue_seconds": _metric(
        GAUGE,
        "job_id",
        "For how long a job should have succeeded again: counted from its third tick since then, or since it was "
        "enabled again, got another schedule or was paused last; plus its grace and time-out. Only for jobs that are "
        "overdue and not paused.",
    ),
    "scheduler_job_failures_in_a_row": _metric(
        GAUGE, "job_id", "Runs of a job that failed, timed out or were lost since its last success; only if any."
    ),
    "scheduler_job_paused": _metric(GAUGE, "job_id", "1 for jobs that are paused; only for those."),
    # configuration
    "scheduler_config_info": _metric(GAUGE, "hash", "Always 1; the configuration in force."),
    "scheduler_config_drift": _metric(
        GAUGE, "", "1 while another live replica goes on with a configuration that differs from this one's, else 0."
    ),
    "scheduler_config_rejected": _metric(
        GAUGE, "", "1 while the newest edit of the configuration is wrong and not in force, else 0."
    ),
    "scheduler_config_reloads_total": _metric(COUNTER, "result", "Edits of the configuration: ok, rejected."),
}
