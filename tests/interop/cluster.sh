# Sourced by `run`: the cluster under test.
# A cluster is known by BOOTSTRAP, by `broker_pid N` and by `partition_dir N TOPIC-P`, so that the same
# checks also run against Apache Kafka (INTEROP_KAFKA=DIR, a folder with Kafka's pids and data/N).

# Members of the next group protocol are missed as soon as those of the classic one ask to be.
NEXT_GROUPS=(
  --set group.consumer.min.session.timeout.ms=6000 --set group.consumer.session.timeout.ms=6000
  --set group.consumer.min.heartbeat.interval.ms=500 --set group.consumer.heartbeat.interval.ms=500
)

start_cluster() {
  if [ -n "${INTEROP_KAFKA:-}" ]; then
    BOOTSTRAP=${INTEROP_BOOTSTRAP:?the bootstrap servers of the Kafka in INTEROP_KAFKA}
  else
    local port=${INTEROP_PORT:-19092}
    BOOTSTRAP=127.0.0.1:$port,127.0.0.1:$((port + 1)),127.0.0.1:$((port + 2))
    rm -rf "$WORK/data"
    "$TIDELOG_BIN" dev --brokers 3 --base-port "$port" --data "$WORK/data" --set log.cleaner.backoff.ms=200 "${NEXT_GROUPS[@]}" > "$WORK/dev.log" 2>&1 < /dev/null &
    CLUSTER_PID=$!
    await 60 "the cluster to say ready" grep -q '^ready: bootstrap' "$WORK/dev.log"
  fi
  IFS=, read -r -a SERVERS <<< "$BOOTSTRAP"
}

stop_cluster() {
  local pid
  for pid in $(cat "$WORK/restarted.pids" 2> /dev/null) ${CLUSTER_PID:-}; do kill "$pid" 2> /dev/null || true; done
  rm -f "$WORK/restarted.pids"
  if [ -n "${CLUSTER_PID:-}" ]; then wait "$CLUSTER_PID" 2> /dev/null || true; fi
}

# await SECONDS WHAT COMMAND...: runs COMMAND until it succeeds.
await() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ]; then
      echo "gave up waiting for $what" >&2
      return 1
    fi
    sleep 0.05
  done
}

broker_pid() {
  if [ -n "${INTEROP_KAFKA:-}" ]; then sed -n "$1p" "$INTEROP_KAFKA/pids"; else cat "$WORK/data/$1/broker.pid"; fi
}

partition_dir() {
  if [ -n "${INTEROP_KAFKA:-}" ]; then echo "$INTEROP_KAFKA/data/$1/$2"; else find "$WORK/data/$1" -path "*/partitions/$2" -type d | head -1; fi
}

# gone PID: a zombie's other threads may still hold its ports.
gone() { [ ! -d "/proc/$1" ] || { grep -q '^State:.Z' "/proc/$1/status" && [ "$(ls "/proc/$1/task" | wc -l)" -le 1 ]; }; }

# kill_broker N: kill -9, with what its command line was kept for restart_broker.
kill_broker() {
  local pid
  pid=$(broker_pid "$1")
  mapfile -d '' -t KILLED_COMMAND < "/proc/$pid/cmdline"
  KILLED_BINARY=$(readlink "/proc/$pid/exe")
  KILLED_CWD=$(readlink "/proc/$pid/cwd")
  kill -9 "$pid"
  await 30 "broker $1 to be gone" gone "$pid"
}

# restart_broker N: starts the killed broker again as it had been started, unless it already runs. It outlives the
# shell of a check, so its pid goes to a file, as those that groups.py starts again.
restart_broker() {
  local pid word command=()
  pid=$(broker_pid "$1")
  if [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status"; then return; fi
  for word in "${KILLED_COMMAND[@]:1}"; do
    [ "$word" = --stop-with-parent ] || command+=("$word")
  done
  (cd "$KILLED_CWD" && exec "$KILLED_BINARY" "${command[@]}") >> "$WORK/restarted-$1.log" 2>&1 < /dev/null &
  echo "$!" >> "$WORK/restarted.pids"
  if [ -n "${INTEROP_KAFKA:-}" ]; then sed -i "$1s/.*/$!/" "$INTEROP_KAFKA/pids"; fi
  await 60 "broker $1 to serve again" kcat -L -b "${SERVERS[$1 - 1]}" -m 2
}
