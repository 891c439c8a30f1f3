# Sourced by `run`: Kafka's own tool for transactions.

# transactions SERVERS WORD...
transactions() {
  local servers=$1
  shift
  java -cp "$WORK/java/dependency/*" org.apache.kafka.tools.TransactionsCommand --bootstrap-server "$servers" "$@" 2>&1
}

# A transaction no coordinator knows of gets in only where nobody verifies it: a cluster of its own.
transactions_tool() {
  local port=$((${INTEROP_PORT:-19092} + 20)) data=$WORK/hanging servers topic=hanging-$RANDOM$RANDOM dev offset
  servers=127.0.0.1:$port
  rm -rf "$data"
  "$TIDELOG_BIN" dev --brokers 3 --base-port "$port" --data "$data" --set transaction.partition.verification.enable=false > "$WORK/hanging.log" 2>&1 < /dev/null &
  dev=$!
  # shellcheck disable=SC2064
  trap "kill $dev; wait $dev || true" EXIT
  await 60 "the cluster to say ready" grep -q '^ready: bootstrap' "$WORK/hanging.log"
  "$PYTHON" "$HERE/python/create_topic.py" "$servers" "$topic"
  # One the coordinator knows, ended.
  "$PYTHON" "$HERE/python/hanging.py" known "$servers" "$topic"
  transactions "$servers" list > "$WORK/hanging.list"
  grep -q "^known-$topic[[:space:]].*CompleteCommit" "$WORK/hanging.list"
  transactions "$servers" describe --transactional-id "known-$topic" > "$WORK/hanging.describe"
  grep -q "known-$topic.*CompleteCommit" "$WORK/hanging.describe"
  # And one it does not know.
  offset=$("$PYTHON" "$HERE/python/hanging.py" hanging "$servers" "$topic")
  transactions "$servers" describe-producers --topic "$topic" --partition 0 > "$WORK/hanging.producers"
  grep -q "^987654[[:space:]].*$offset" "$WORK/hanging.producers"
  transactions "$servers" find-hanging --topic "$topic" --partition 0 > "$WORK/hanging.found"
  grep -q "^$topic[[:space:]].*987654" "$WORK/hanging.found"
  "$PYTHON" "$HERE/python/hanging.py" read "$servers" "$topic" | cmp - <(echo known)
  transactions "$servers" abort --topic "$topic" --partition 0 --start-offset "$offset"
  transactions "$servers" find-hanging --topic "$topic" --partition 0 > "$WORK/hanging.found"
  if grep -q 987654 "$WORK/hanging.found"; then return 1; fi
  # The last stable offset moves on: what was written behind it is seen, what it held is not.
  printf 'known\nafter\n' > "$WORK/hanging.expected"
  await 30 "the reader to see what is behind it" read_behind "$servers" "$topic"
}

read_behind() { "$PYTHON" "$HERE/python/hanging.py" read "$1" "$2" | cmp - "$WORK/hanging.expected"; }

streams_app() {
  java -Xmx256m -cp "$WORK/java/classes:$WORK/java/dependency/*" tidelog.interop.StreamsCount \
    "$BOOTSTRAP" "$1" "$1-in" "$1-out" "$WORK/streams-state" >> "$WORK/streams.log" 2>&1 < /dev/null &
  STREAMS_PID=$!
}

# Kafka Streams with exactly_once_v2 counts records; itself and the brokers are killed in turn.
streams_counts() {
  local app=streams-$RANDOM$RANDOM records=${INTEROP_STREAMS_RECORDS:-50000} round broker
  rm -rf "$WORK/streams-state" "$WORK/streams.log"
  "$PYTHON" "$HERE/python/streams.py" fill "$BOOTSTRAP" "$app-in" "$app-out" "$records"
  streams_app "$app"
  trap 'kill -9 "$STREAMS_PID" 2> /dev/null || true' EXIT
  for round in 1 2 3 4; do
    "$PYTHON" "$HERE/python/streams.py" await "$BOOTSTRAP" "$app-out" $((records * round / 6))
    broker=$(((round - 1) % 3 + 1))
    kill_broker "$broker"
    # From the second round on also the application, while a broker is missing.
    if [ "$round" -gt 1 ]; then
      kill -9 "$STREAMS_PID"
      wait "$STREAMS_PID" || true
      streams_app "$app"
    fi
    restart_broker "$broker"
  done
  "$PYTHON" "$HERE/python/streams.py" verify "$BOOTSTRAP" "$app-out" "$records"
}
