"""When jobs are due: cron expressions, intervals and single moments as pure functions.

What is promised:

- The ticks of a schedule are a fixed set.  `after`, `between` and `latest` agree on it from any
  starting point, on every replica, before and after every restart (I8).
- Cron expressions mean what crontab(5) and Debian's cron make of them, also when clocks change:

      the job's times are           clocks go forward             clocks go back
      fixed                         a time in the gap comes at    a doubled time comes once,
                                    the first moment after it,    when it is shown first
                                    all of one gap together once
      `*` starts minute or hour     as real time passes           as real time passes

  A gap of more than three hours (Apia lost a whole day) is a change of calendar: what fell into it
  is left out.
- With a seconds field, which crontab(5) does not have, the same holds, but a job that ticks anyway
  within the length of the gap after it gets no tick for what fell into the gap.
- Zones come from the tzdata package, never from the host.

cronsim reads the expressions and walks naive wall time; it never sees a zone, because with one its
answers depend on where it starts.
"""

from scheduler_service.schedule.errors import ScheduleError
from scheduler_service.schedule.jitter import due_at, shortest_gap
from scheduler_service.schedule.schedule import LEAST_INTERVAL, Schedule, at, cron, every, manual, parse
from scheduler_service.schedule.zones import zone

__all__ = [
    "LEAST_INTERVAL",
    "Schedule",
    "ScheduleError",
    "at",
    "cron",
    "due_at",
    "every",
    "manual",
    "parse",
    "shortest_gap",
    "zone",
]
