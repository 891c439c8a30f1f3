# Sourced by `run`: Kafka's tools for operators.

metadata_quorum() {
  java -cp "$WORK/java/dependency/*" org.apache.kafka.tools.MetadataQuorumCommand \
    --bootstrap-server "$BOOTSTRAP" describe "$@" 2>&1
}

# One leader, two voters that lack nothing, and the addresses of all three.
metadata_quorum_tool() {
  metadata_quorum --status | tee "$WORK/quorum.txt"
  grep -qE '^LeaderId: +[123]$' "$WORK/quorum.txt"
  grep -qE '^MaxFollowerLag: +0$' "$WORK/quorum.txt"
  [ "$(grep -o 'PEER://' "$WORK/quorum.txt" | wc -l)" = 3 ]
  metadata_quorum --replication --human-readable | tee "$WORK/quorum.txt"
  [ "$(grep -c 'Leader[[:space:]]*$' "$WORK/quorum.txt")" = 1 ]
  [ "$(grep -c 'Follower[[:space:]]*$' "$WORK/quorum.txt")" = 2 ]
}

kafka_tool() {
  local tool=$1
  shift
  java -cp "$WORK/java/dependency/*" "org.apache.kafka.tools.$tool" --bootstrap-server "$BOOTSTRAP" "$@" 2>&1
}

# One topic of two partitions with one replica each: moved to other brokers, grown, a move cancelled, and led by
# whom it is told to.
reassign_partitions_tool() {
  local topic=reassigned plan=$WORK/reassign.json told=$WORK/reassign.txt
  kafka_tool TopicCommand --create --topic "$topic" --replica-assignment 1,1
  seq 1 2000 | "$TIDELOG_BIN" produce --bootstrap "$BOOTSTRAP" "$topic"
  moves "$topic" "[2,3]" "[3,1,2]" > "$plan"
  kafka_tool reassign.ReassignPartitionsCommand --reassignment-json-file "$plan" --execute | tee "$told"
  grep -q 'Successfully started partition reassignment' "$told"
  for _ in $(seq 60); do
    kafka_tool reassign.ReassignPartitionsCommand --reassignment-json-file "$plan" --verify > "$told"
    [ "$(grep -c 'is completed' "$told")" = 2 ] && break
    sleep 0.5
  done
  cat "$told"
  [ "$(grep -c 'is completed' "$told")" = 2 ]
  kafka_tool TopicCommand --describe --topic "$topic" | tee "$told"
  grep -q 'Partition: 0.*Replicas: 2,3' "$told"
  grep -q 'Partition: 1.*Replicas: 3,1,2' "$told"
  [ "$("$TIDELOG_BIN" consume --bootstrap "$BOOTSTRAP" "$topic" --from-beginning | sort -n | uniq | wc -l)" = 2000 ]

  moves "$topic" "[1,2,3]" "[1,2,3]" > "$plan"
  kafka_tool reassign.ReassignPartitionsCommand --reassignment-json-file "$plan" --execute
  kafka_tool reassign.ReassignPartitionsCommand --reassignment-json-file "$plan" --cancel | tee "$told"
  kafka_tool reassign.ReassignPartitionsCommand --list | tee "$told"

  kafka_tool LeaderElectionCommand --election-type preferred --all-topic-partitions
  kafka_tool TopicCommand --describe --topic "$topic" | tee "$told"
  awk '/Leader:/ {split($0, half, "Leader: "); split(half[2], leader, "\t"); split($0, rest, "Replicas: ");
    split(rest[2], first, ","); if (leader[1] != first[1]) wrong++} END {exit wrong != 0}' "$told"
}

# Levels are shown, lowered, raised, and refused where a broker does not know them; the metadata's never go down.
features_tool() {
  local told=$WORK/features.txt
  kafka_tool FeatureCommand describe | tee "$told"
  grep -qE 'Feature: group.version[[:space:]].*SupportedMaxVersion: 1[[:space:]].*FinalizedVersionLevel: 1[[:space:]]' "$told"
  grep -qE 'Feature: transaction.version[[:space:]].*FinalizedVersionLevel: 2[[:space:]]' "$told"
  grep -q 'Feature: metadata.version' "$told"
  kafka_tool FeatureCommand downgrade --feature group.version=0 | tee "$told"
  grep -q 'group.version was downgraded to 0' "$told"
  kafka_tool FeatureCommand upgrade --feature group.version=1 --feature transaction.version=2 | tee "$told"
  grep -q 'group.version was upgraded to 1' "$told"
  ! kafka_tool FeatureCommand upgrade --feature group.version=9 > "$told"
  grep -q 'does not support this feature' "$told"
  ! kafka_tool FeatureCommand downgrade --feature metadata.version=1 > "$told"
  grep -q 'cannot be downgraded' "$told"
  kafka_tool FeatureCommand describe | tee "$told"
  grep -qE 'Feature: group.version[[:space:]].*FinalizedVersionLevel: 1[[:space:]]' "$told"
}

# The JSON of a reassignment of two partitions.
moves() {
  printf '{"version":1,"partitions":[{"topic":"%s","partition":0,"replicas":%s},{"topic":"%s","partition":1,"replicas":%s}]}\n' \
    "$1" "$2" "$1" "$3"
}
