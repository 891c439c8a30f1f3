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
  [ "$(grep -c 'Leader *$' "$WORK/quorum.txt")" = 1 ]
  [ "$(grep -c 'Follower *$' "$WORK/quorum.txt")" = 2 ]
}
