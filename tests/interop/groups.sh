# Sourced by `run`: consumer groups of every client library, and Kafka's own tool for them.

groups_of_every_library() {
  local data=$WORK/data java="java -cp $WORK/java/classes:$WORK/java/dependency/*"
  if [ -n "${INTEROP_KAFKA:-}" ]; then data=$INTEROP_KAFKA/data; fi
  local -A member=(
    [confluent-kafka]="$PYTHON $HERE/python/member.py confluent"
    [kafka-python]="$PYTHON $HERE/python/member.py kafka-python"
    [franz-go]="$WORK/go-member franz-go"
    [sarama]="$WORK/go-member sarama"
    [kafkajs]="node $WORK/js/member.js"
    [kafka-clients]="$java tidelog.interop.Member"
    # The next protocol (KIP-848).
    [confluent-kafka-next]="$PYTHON $HERE/python/member.py confluent-next"
    [kafka-clients-next]="$java -Dnext=true tidelog.interop.Member"
  )
  # The group changes its protocol as members come and leave.
  member[confluent-kafka-both]="${member[confluent-kafka]} | ${member[confluent-kafka-next]}"
  member[kafka-clients-both]="${member[kafka-clients]} | ${member[kafka-clients-next]}"
  local library arguments=()
  for library in ${INTEROP_GROUP_LIBRARIES:-confluent-kafka kafka-python franz-go sarama kafkajs kafka-clients \
    confluent-kafka-next kafka-clients-next confluent-kafka-both kafka-clients-both}; do
    arguments+=("$library=${member[$library]}")
  done
  program groups "$PYTHON" "$HERE/python/groups.py" "$BOOTSTRAP" "${INTEROP_GROUP_RECORDS:-60000}" "$data" \
    "$WORK/restarted.pids" "${arguments[@]}"
  program next-groups java -cp "$WORK/java/classes:$WORK/java/dependency/*" tidelog.interop.NextGroups "$BOOTSTRAP"
}

consumer_groups() {
  java -cp "$WORK/java/dependency/*" org.apache.kafka.tools.consumer.group.ConsumerGroupCommand \
    --bootstrap-server "$BOOTSTRAP" "$@" 2>&1
}

# lag_of GROUP: the sum of what is left to read, as the tool tells it.
lag_of() {
  consumer_groups --describe --group "$1" | tee "$WORK/described.txt" | awk -v group="$1" '$1 == group { lag += $6 } END { print lag }'
}

# records_of GROUP: what DumpLogSegments makes of the group's records on broker 1.
records_of() {
  local file
  file=$(grep -l -a -r --include='*.log' "$1" "$(dirname "$(partition_dir 1 __consumer_offsets-0)")"/__consumer_offsets-* | head -1)
  java -cp "$WORK/java/dependency/*" org.apache.kafka.tools.DumpLogSegments --offsets-decoder --files "$file" 2>&1
}

# A group of kcat's, looked at and moved about with Kafka's own tool.
consumer_groups_tool() {
  local topic=tool-$RANDOM$RANDOM group=tool-$RANDOM$RANDOM
  "$PYTHON" "$HERE/python/create_topic.py" "$BOOTSTRAP" "$topic"
  seq 1 100 | kcat -P -q -b "$BOOTSTRAP" -t "$topic" -p 0
  kcat -q -b "$BOOTSTRAP" -G "$group" -X auto.offset.reset=earliest -e "$topic" > "$WORK/tool.got"
  seq 1 100 | cmp - "$WORK/tool.got"
  consumer_groups --list > "$WORK/listed.txt"
  grep -qx "$group" "$WORK/listed.txt"
  # Kafka's decoder reads what our coordinator has written.
  records_of "$group" > "$WORK/decoded.txt"
  grep -q "\"group\":\"$group\",\"topic\":\"$topic\",\"partition\":0}} payload: .*\"offset\":100," "$WORK/decoded.txt"
  grep -q "\"group\":\"$group\"}} payload: .*\"assignedPartitions\":\[{\"topic\":\"$topic\"" "$WORK/decoded.txt"
  [ "$(lag_of "$group")" = 0 ]
  seq 101 107 | kcat -P -q -b "$BOOTSTRAP" -t "$topic" -p 0
  [ "$(lag_of "$group")" = 7 ]
  consumer_groups --describe --group "$group" --state > "$WORK/state.txt"
  grep -q Empty "$WORK/state.txt"
  consumer_groups --reset-offsets --group "$group" --topic "$topic" --to-offset 50 --execute > "$WORK/reset.txt"
  [ "$(lag_of "$group")" = 57 ]
  # A group with a member keeps its offsets and shows whom they belong to.
  kcat -q -u -b "$BOOTSTRAP" -G "$group" -X auto.offset.reset=earliest "$topic" > "$WORK/tool.got" 2> "$WORK/tool.err" &
  local member=$!
  await 30 "the member to read on" grep -qx 107 "$WORK/tool.got"
  consumer_groups --describe --group "$group" --members > "$WORK/members.txt"
  grep -q rdkafka "$WORK/members.txt"
  if consumer_groups --delete --group "$group" | grep -q 'was successful'; then kill "$member"; return 1; fi
  kill "$member"
  wait "$member" || true
  seq 51 107 | cmp - "$WORK/tool.got"
  consumer_groups --delete --group "$group" | grep -q 'was successful'
  consumer_groups --list > "$WORK/listed.txt"
  if grep -qx "$group" "$WORK/listed.txt"; then return 1; fi
}
