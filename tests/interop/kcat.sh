# Sourced by `run`: what a person does with kcat, and the leader killed under a producer.

kcat_checks() {
  local topic=kcat-$RANDOM$RANDOM text=$WORK/text.txt keyed=$WORK/keyed.tsv codec
  # Real text: the documents of this repository; empty lines left out, kcat sends none of them.
  find "$REPO/docs" "$REPO/README.md" "$REPO/Cargo.lock" -name "*.md" -o -name Cargo.lock | sort | xargs cat | grep -v '^[[:space:]]*$' > "$text"
  awk -v OFS='\t' '{ gsub(/\t/, " "); print "line-" NR, $0 }' "$text" > "$keyed"

  for codec in none gzip snappy lz4 zstd; do
    check "kcat: text with $codec, read back from every broker in order" kcat_text "$topic-$codec" "$codec" "$text"
  done
  check "kcat: keys and headers over many batches" kcat_keyed "$topic-keyed" "$keyed"
  check "kcat: metadata shows three brokers, the topic and its leader" kcat_metadata "$topic-none"
  check "kcat: offsets by timestamp, ranges and tails" kcat_offsets "$topic-none" "$text"
}

kcat_text() {
  local topic=$1 codec=$2 file=$3 server
  kcat -P -q -b "$BOOTSTRAP" -t "$topic" -p 0 -z "$codec" -X acks=all -X enable.idempotence=true -l "$file"
  for server in "${SERVERS[@]}"; do
    kcat -C -q -b "$server" -t "$topic" -p 0 -o beginning -e -X check.crcs=true -f '%s\n' | cmp - "$file"
  done
}

kcat_keyed() {
  local topic=$1 file=$2
  kcat -P -q -b "$BOOTSTRAP" -t "$topic" -K "$(printf '\t')" -H source=docs -H kind=text -z zstd -X linger.ms=1 -l "$file"
  kcat -C -q -b "$BOOTSTRAP" -t "$topic" -o beginning -e -f '%k\t%s\t%h\n' | sort > "$WORK/keyed.got"
  sed 's/$/\tsource=docs,kind=text/' "$file" | sort | cmp "$WORK/keyed.got" -
}

kcat_metadata() {
  kcat -L -J -b "${SERVERS[2]}" -t "$1" > "$WORK/metadata.json"
  python3 - "$WORK/metadata.json" "$1" <<'P'
import json, sys
seen = json.load(open(sys.argv[1]))
assert len(seen["brokers"]) == 3, seen["brokers"]
topic = next(t for t in seen["topics"] if t["topic"] == sys.argv[2])
for partition in topic["partitions"]:
    assert partition["leader"] in [b["id"] for b in seen["brokers"]], partition
    assert len(partition["replicas"]) == 3 and len(partition["isrs"]) == 3, partition
P
}

kcat_offsets() {
  local topic=$1 lines
  lines=$(wc -l < "$2")
  [ "$(kcat -Q -b "$BOOTSTRAP" -t "$topic:0:-2")" = "$topic [0] offset 0" ]
  [ "$(kcat -Q -b "$BOOTSTRAP" -t "$topic:0:-1")" = "$topic [0] offset $lines" ]
  [ "$(kcat -Q -b "$BOOTSTRAP" -t "$topic:0:1")" = "$topic [0] offset 0" ]
  [ "$(kcat -C -q -b "$BOOTSTRAP" -t "$topic" -p 0 -o 100 -c 3 -f '%o ')" = "100 101 102 " ]
  [ "$(kcat -C -q -b "$BOOTSTRAP" -t "$topic" -p 0 -o -2 -e -f '%o ')" = "$((lines - 2)) $((lines - 1)) " ]
}

high_watermark() {
  kcat -Q -b "$BOOTSTRAP" -t "$1:0:-1" 2> /dev/null | sed -n 's/.*offset \([0-9]*\)$/\1/p'
}

leader_of() {
  kcat -L -J -b "$BOOTSTRAP" -t "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["topics"][0]["partitions"][0]["leader"])'
}

watermark_above() {
  local now
  now=$(high_watermark "$1")
  [ -n "$now" ] && [ "$now" -gt "$2" ]
}

# One million numbers from an idempotent producer; the leader dies by kill -9 while they flow, and
# comes back. Half of the input is held until the kill, so that it cannot come too late.
killed_leader() {
  local topic=numbers-$RANDOM leader killed_at
  local go=$WORK/go.$topic
  {
    seq 1 500000
    until [ -e "$go" ]; do sleep 0.01; done
    seq 500001 1000000
  } | kcat -P -b "$BOOTSTRAP" -t "$topic" -X acks=all -X enable.idempotence=true 2> "$WORK/killed-producer.log" &
  local producer=$!
  await 60 "the first numbers" watermark_above "$topic" 0
  leader=$(leader_of "$topic")
  await 60 "50,000 numbers" watermark_above "$topic" 50000
  kill_broker "$leader"
  killed_at=$(high_watermark "$topic" || true)
  touch "$go"
  await 60 "numbers written after the kill" watermark_above "$topic" "${killed_at:-500000}"
  restart_broker "$leader"
  wait "$producer"
  local server
  for server in "${SERVERS[@]}"; do
    kcat -C -q -b "$server" -t "$topic" -o beginning -e -X check.crcs=true > "$WORK/numbers.got"
    seq 1 1000000 | cmp - "$WORK/numbers.got"
  done
}

# Kafka's own tool reads the closed segments of one partition, on every broker.
dump_log() {
  local topic=dump-$RANDOM broker dir segments closed
  local tool=(java -cp "$WORK/java/dependency/*" org.apache.kafka.tools.DumpLogSegments)
  "$PYTHON" "$HERE/python/create_topic.py" "$BOOTSTRAP" "$topic" segment.bytes=1048576
  seq 1 600000 | kcat -P -q -b "$BOOTSTRAP" -t "$topic" -p 0 -X acks=all -X linger.ms=2
  for broker in 1 2 3; do
    dir=$(partition_dir "$broker" "$topic-0")
    mapfile -t segments < <(find "$dir" -name '*.log' | sort)
    if [ "${#segments[@]}" -lt 3 ]; then
      echo "broker $broker has ${#segments[@]} segments in $dir"
      return 1
    fi
    closed=$(IFS=,; echo "${segments[*]:0:2}")
    "${tool[@]}" --deep-iteration --files "$closed" > "$WORK/dump.txt" 2>&1
    if grep -iE 'isvalid: false|corrupt|mismatch|invalid bytes|exception|could not' "$WORK/dump.txt"; then return 1; fi
    # Every record of those segments, each offset once and in order.
    grep -oE '\| offset: [0-9]+' "$WORK/dump.txt" | awk '$3 != NR - 1 { print "offset " $3 " at place " NR; exit 1 } END { exit NR < 1000 }'
    "${tool[@]}" --verify-index-only --files "${closed//.log/.index}" > "$WORK/dump-index.txt" 2>&1
    "${tool[@]}" --files "${closed//.log/.timeindex}" >> "$WORK/dump-index.txt" 2>&1
    if grep -iE 'mismatch|out of order|exception|not found' "$WORK/dump-index.txt"; then return 1; fi
  done
}

# compact_input FROM TO: a line of key, tab and value a number; every seventh key deletes at times.
compact_input() {
  seq "$1" "$2" | awk -v OFS='\t' '{ key = ($1 * 7919) % 5000; print "k" key, ($1 % 13 == 0 ? "" : "value-" $1 "-of-k" key) }'
}

# The last value of each key that is not deleted, sorted.
latest() {
  awk -F '\t' '{ if ($2 == "") delete last[$1]; else last[$1] = $2 } END { for (key in last) print key "\t" last[key] }' | sort
}

log_bytes() {
  find "$1" -name '*.log' -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }'
}

broker_gone() {
  local pid
  pid=$(broker_pid "$1")
  [ ! -d "/proc/$pid" ] || grep -q '^State:.Z' "/proc/$pid/status"
}

compacted_below() {
  [ "$(log_bytes "$1")" -lt "$2" ]
}

# A compacted topic, its brokers killed while they compact: kcat reads from each what the model says, and so
# does Kafka's DumpLogSegments from the segments themselves.
compacted_topic() {
  local topic=compacted-$RANDOM broker dir server round from
  local tool=(java -cp "$WORK/java/dependency/*" org.apache.kafka.tools.DumpLogSegments)
  local model=$WORK/compacted.model
  "$PYTHON" "$HERE/python/create_topic.py" "$BOOTSTRAP" "$topic" cleanup.policy=compact \
    segment.bytes=1048576 min.cleanable.dirty.ratio=0.1 delete.retention.ms=500
  compact_input 1 600000 | latest > "$model"
  for round in 1 2 3; do
    from=$(((round - 1) * 200000 + 1))
    # An empty value deletes (-Z).
    compact_input "$from" $((round * 200000)) |
      kcat -P -q -b "$BOOTSTRAP" -t "$topic" -p 0 -K "$(printf '\t')" -Z -X acks=all -X enable.idempotence=true -X linger.ms=2
    kill_broker "$round"
    await 20 "broker $round to end" broker_gone "$round"
    restart_broker "$round"
  done
  for broker in 1 2 3; do
    dir=$(partition_dir "$broker" "$topic-0")
    await 120 "broker $broker to compact" compacted_below "$dir" 6000000
  done
  for server in "${SERVERS[@]}"; do
    kcat -C -q -b "$server" -t "$topic" -p 0 -o beginning -e -Z -X check.crcs=true -f '%k\t%s\n' | sed 's/\tNULL$/\t/' | latest | cmp - "$model"
  done
  for broker in 1 2 3; do
    dir=$(partition_dir "$broker" "$topic-0")
    "${tool[@]}" --print-data-log --files "$(find "$dir" -name '*.log' | sort | paste -sd,)" > "$WORK/compacted.txt" 2>&1
    if grep -iE 'isvalid: false|corrupt|mismatch|invalid bytes|exception|could not' "$WORK/compacted.txt"; then return 1; fi
    sed -nE 's/^\| offset: .* key: (k[0-9]+)( payload: (.*))?$/\1\t\3/p' "$WORK/compacted.txt" | latest | cmp - "$model"
    # Offsets go up, and many are gone.
    grep -oE '^\| offset: [0-9]+' "$WORK/compacted.txt" | awk '$3 <= last { print "offset " $3 " after " last; exit 1 } { last = $3 } END { exit NR > 300000 }'
  done
}
