# Sourced by `run`: one broker of Apache Kafka 4.3, for what our client promises beside our own brokers.
# It listens without encryption at PORT, with TLS and SASL at PORT+1, with TLS at PORT+2.

KAFKA_VERSION=${KAFKA_VERSION:-4.3.0}

# Kafka's jars come by Maven, as those of the Java client do.
install_kafka() {
  local dir=$WORK/kafka
  [ -d "$dir/lib" ] && return
  mkdir -p "$dir"
  cat > "$dir/pom.xml" << POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tidelog.interop</groupId><artifactId>kafka</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
POM
  (cd "$dir" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib.new && mv lib.new lib)
}

# An authority and a certificate for 127.0.0.1, as PEM.
make_certificates() {
  local dir=$1
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=interop authority" \
    -keyout "$dir/ca.key" -out "$dir/ca.pem"
  openssl req -newkey rsa:2048 -nodes -subj "/CN=127.0.0.1" -keyout "$dir/broker.key" -out "$dir/broker.csr"
  openssl x509 -req -in "$dir/broker.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 2 \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE') -out "$dir/broker.crt"
  cat "$dir/broker.key" "$dir/broker.crt" > "$dir/broker.pem"
}

start_kafka() {
  local dir=$WORK/kafka port=$1 module=org.apache.kafka.common.security
  rm -rf "$dir/data"
  make_certificates "$dir" > "$dir/openssl.log" 2>&1
  cat > "$dir/server.properties" << P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 3))
listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$((port + 1)),SSL://127.0.0.1:$((port + 2)),CONTROLLER://127.0.0.1:$((port + 3))
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SASL_SSL://127.0.0.1:$((port + 1)),SSL://127.0.0.1:$((port + 2))
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
log.dirs=$dir/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=500
ssl.keystore.type=PEM
ssl.keystore.location=$dir/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$dir/ca.pem
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config=$module.plain.PlainLoginModule required user_ann="secret";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=$module.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$module.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=$module.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
P
  java -Xmx256m -cp "$dir/lib/*" kafka.tools.StorageTool format -t "$(java -cp "$dir/lib/*" kafka.tools.StorageTool random-uuid)" \
    --add-scram 'SCRAM-SHA-256=[name=ann,password=secret]' --add-scram 'SCRAM-SHA-512=[name=ann,password=secret]' \
    ${KAFKA_FORMAT:-} -c "$dir/server.properties" > "$dir/format.log" 2>&1
  java -Xms256m -Xmx512m -cp "$dir/lib/*" kafka.Kafka "$dir/server.properties" > "$dir/kafka.log" 2>&1 < /dev/null &
  KAFKA_PID=$!
  await 60 "Apache Kafka to start" kcat -L -b "127.0.0.1:$port" -m 2
}

stop_kafka() {
  [ -n "${KAFKA_PID:-}" ] || return 0
  kill "$KAFKA_PID" 2> /dev/null || true
  wait "$KAFKA_PID" 2> /dev/null || true
  KAFKA_PID=
}

# The same promises that `cargo test` checks against our brokers, and security, which those lack.
client_vs_kafka() {
  local port=${INTEROP_KAFKA_PORT:-19492}
  if ! start_kafka "$port"; then
    fail "start Apache Kafka"
    tail -n 15 "$WORK/kafka/format.log" "$WORK/kafka/kafka.log" 2> /dev/null | sed 's/^/    /'
    return
  fi
  TIDELOG_TEST_CERTIFICATES=$WORK/kafka program client-vs-kafka "$CLIENT_SUITE" "127.0.0.1:$port" core,groups,nextgen,transactions,security
  stop_kafka
}
