#!/bin/sh
# What tally.py does, as a command: tally.sh FILE SECONDS EXIT_CODE
line() {
  read -r up _ </proc/uptime
  printf '%s %s %s %s %s %s %s\n' "$SCHEDULER_JOB" "$SCHEDULER_SCHEDULED_AT" "$SCHEDULER_FENCE" "$SCHEDULER_RUN_ID" \
    $$ "$1" "$up" >>"$file"
}
file=$1
trap 'line end; exit 143' TERM
line begin
sleep "$2" &
wait $!
line end
exit "$3"
