package tidelog.interop;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.IntFunction;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Apache Kafka's own Java client against a running cluster: Interop BOOTSTRAP RECORDS.
 * Prints "pass CLIENT: CHECK" or "FAIL CLIENT: CHECK: WHY" a line.
 */
public final class Interop {
    private static final String CLIENT = "kafka-clients (Java)";
    private static final int PARTITIONS = 6;

    private interface Work {
        void run() throws Exception;
    }

    private final String bootstrap;
    private final List<Input> records;
    private final Admin admin;
    private final String prefix = "java-" + Long.toHexString(System.nanoTime());
    private int failures;

    private Interop(String bootstrap, List<Input> records) {
        this.bootstrap = bootstrap;
        this.records = records;
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
    }

    public static void main(String[] args) throws Exception {
        Interop interop = new Interop(args[0], Input.load(args[1]));
        interop.all();
        interop.admin.close(Duration.ofSeconds(5));
        System.exit(interop.failures == 0 ? 0 : 1);
    }

    private void all() {
        List<String> codecs = List.of("none", "gzip", "snappy", "lz4", "zstd");
        for (String codec : codecs) {
            check("produce (idempotent, " + codec + ") and read back " + records.size() + " records", () -> {
                create(prefix + "-" + codec);
                produce(prefix + "-" + codec, codec);
                readBack(prefix + "-" + codec, 0);
            });
        }
        String topic = prefix + "-none";
        check("ListOffsets: earliest, latest, by timestamp, max timestamp", () -> listOffsets(topic));
        check("consumer: offsetsForTimes, beginningOffsets, endOffsets", () -> consumerOffsets(topic));
        check("describe and alter configs, of topic and broker", () -> configs(topic));
        check("describe cluster and log dirs", this::cluster);
        check("delete records below offset 12", () -> deleteRecords(topic));
        check("create partitions: 6 to 8", () -> {
            get(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(8))).all());
            awaitLeaders(topic, 8);
        });
        check("delete topics", () -> {
            Set<String> topics = codecs.stream().map(codec -> prefix + "-" + codec).collect(Collectors.toSet());
            get(admin.deleteTopics(topics).all());
            until("the topics gone", () -> get(admin.listTopics().names()).stream().noneMatch(topics::contains));
        });
    }

    private void check(String name, Work work) {
        try {
            work.run();
            System.out.println("pass " + CLIENT + ": " + name);
        } catch (Exception | AssertionError error) {
            failures++;
            System.out.println("FAIL " + CLIENT + ": " + name + ": " + error.toString().replace('\n', ' '));
        }
    }

    private static <T> T get(Future<T> future) throws Exception {
        return future.get(60, TimeUnit.SECONDS);
    }

    private static void expect(Object got, Object wanted, String what) {
        if (!wanted.equals(got)) {
            throw new AssertionError(what + ": " + got + ", expected " + wanted);
        }
    }

    private static void until(String what, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (!condition.call()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("not within 30 s: " + what);
            }
            Thread.sleep(50);
        }
    }

    private void create(String topic) throws Exception {
        NewTopic wanted = new NewTopic(topic, PARTITIONS, (short) 3).configs(Map.of("retention.ms", "86400000"));
        get(admin.createTopics(List.of(wanted)).all());
        awaitLeaders(topic, PARTITIONS);
    }

    private void awaitLeaders(String topic, int count) throws Exception {
        until(topic + " has " + count + " partitions with leaders", () -> {
            try {
                TopicDescription found = get(admin.describeTopics(List.of(topic)).allTopicNames()).get(topic);
                return found.partitions().size() == count
                        && found.partitions().stream().allMatch(p -> p.leader() != null && p.replicas().size() == 3);
            } catch (java.util.concurrent.ExecutionException error) {
                if (error.getCause() instanceof UnknownTopicOrPartitionException) {
                    return false; // the asked broker has not heard of it yet
                }
                throw error;
            }
        });
    }

    private void produce(String topic, String codec) throws Exception {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("enable.idempotence", true);
        settings.put("acks", "all");
        settings.put("compression.type", codec);
        settings.put("linger.ms", 5);
        settings.put("batch.size", 8192);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (Input record : records) {
                sent.add(producer.send(record.to(topic)));
            }
            producer.flush();
        }
        long[] next = new long[PARTITIONS];
        for (Future<RecordMetadata> future : sent) {
            RecordMetadata acknowledged = get(future);
            expect(acknowledged.offset(), next[acknowledged.partition()]++, "acknowledged offset");
        }
    }

    private KafkaConsumer<byte[], byte[]> consumer() {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "auto.offset.reset", "none",
                "check.crcs", true, "enable.auto.commit", false);
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static List<TopicPartition> partitions(String topic) {
        return IntStream.range(0, PARTITIONS).mapToObj(p -> new TopicPartition(topic, p)).toList();
    }

    private List<Input> in(int partition) {
        return records.stream().filter(r -> r.partition() == partition).toList();
    }

    private void readBack(String topic, int start) {
        List<List<Input>> expected = IntStream.range(0, PARTITIONS).mapToObj(this::in).toList();
        int[] next = new int[PARTITIONS];
        Arrays.fill(next, start);
        int left = records.size() - PARTITIONS * start;
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            consumer.assign(partitions(topic));
            partitions(topic).forEach(p -> consumer.seek(p, start));
            long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            // One short poll after the last record: nothing may follow it.
            for (boolean last = false; !last; ) {
                last = left == 0;
                for (ConsumerRecord<byte[], byte[]> got : consumer.poll(Duration.ofMillis(300))) {
                    if (next[got.partition()] >= expected.get(got.partition()).size()) {
                        throw new AssertionError("more than was sent: " + got);
                    }
                    compare(got, expected.get(got.partition()).get(next[got.partition()]), next[got.partition()]);
                    next[got.partition()]++;
                    left--;
                }
                if (System.nanoTime() > end) {
                    throw new AssertionError(left + " records not read in 60 s");
                }
            }
        }
    }

    private static void compare(ConsumerRecord<byte[], byte[]> got, Input sent, long offset) {
        String where = "partition " + got.partition() + " offset " + offset + " ";
        expect(got.offset(), offset, where);
        expect(got.timestamp(), sent.timestamp(), where + "timestamp");
        expect(Arrays.asList(got.headers().toArray()), sent.headers(), where + "headers");
        if (!Arrays.equals(got.key(), sent.key()) || !Arrays.equals(got.value(), sent.value())) {
            throw new AssertionError(where + "another key or value");
        }
    }

    private Map<Integer, Long> list(String topic, OffsetSpec spec) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = partitions(topic).stream().collect(Collectors.toMap(p -> p, p -> spec));
        Map<Integer, Long> offsets = new HashMap<>();
        get(admin.listOffsets(asked).all()).forEach((p, found) -> offsets.put(p.partition(), found.offset()));
        return offsets;
    }

    private static Map<Integer, Long> each(IntFunction<Long> offset) {
        return IntStream.range(0, PARTITIONS).boxed().collect(Collectors.toMap(p -> p, offset::apply));
    }

    private long firstAt(int partition, long timestamp) {
        List<Input> own = in(partition);
        return IntStream.range(0, own.size()).filter(n -> own.get(n).timestamp() >= timestamp).findFirst().orElse(-1);
    }

    private long middle() {
        return records.get(records.size() / 2).timestamp();
    }

    private void listOffsets(String topic) throws Exception {
        expect(list(topic, OffsetSpec.earliest()), each(p -> 0L), "earliest");
        expect(list(topic, OffsetSpec.latest()), each(p -> (long) in(p).size()), "latest");
        expect(list(topic, OffsetSpec.forTimestamp(middle())), each(p -> firstAt(p, middle())), "by timestamp");
        expect(list(topic, OffsetSpec.maxTimestamp()), each(p -> {
            long max = in(p).stream().mapToLong(Input::timestamp).max().orElseThrow();
            return firstAt(p, max);
        }), "max timestamp");
    }

    private void consumerOffsets(String topic) {
        Collection<TopicPartition> all = partitions(topic);
        try (KafkaConsumer<byte[], byte[]> consumer = consumer()) {
            consumer.beginningOffsets(all).forEach((p, offset) -> expect(offset, 0L, "beginning of " + p));
            consumer.endOffsets(all).forEach((p, offset) -> expect(offset, (long) in(p.partition()).size(), "end of " + p));
            Map<TopicPartition, Long> at = all.stream().collect(Collectors.toMap(p -> p, p -> middle()));
            consumer.offsetsForTimes(at).forEach((p, found) -> {
                expect(found.offset(), firstAt(p.partition(), middle()), "offset at a time of " + p);
                expect(found.timestamp(), in(p.partition()).get((int) found.offset()).timestamp(), "its timestamp");
            });
        }
    }

    private void configs(String topic) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        ConfigEntry retention = get(admin.describeConfigs(List.of(resource)).all()).get(resource).get("retention.ms");
        expect(retention.value(), "86400000", "retention.ms");
        expect(retention.source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, "source of retention.ms");
        AlterConfigOp set = new AlterConfigOp(new ConfigEntry("segment.bytes", "1048576"), AlterConfigOp.OpType.SET);
        AlterConfigOp unset = new AlterConfigOp(new ConfigEntry("retention.ms", ""), AlterConfigOp.OpType.DELETE);
        get(admin.incrementalAlterConfigs(Map.of(resource, List.of(set, unset))).all());
        until("the altered configs", () -> {
            var now = get(admin.describeConfigs(List.of(resource)).all()).get(resource);
            return now.get("segment.bytes").value().equals("1048576")
                    && now.get("retention.ms").source() == ConfigEntry.ConfigSource.DEFAULT_CONFIG
                    && now.get("retention.ms").value().equals("604800000");
        });
        int broker = get(admin.describeCluster().nodes()).iterator().next().id();
        ConfigResource node = new ConfigResource(ConfigResource.Type.BROKER, Integer.toString(broker));
        ConfigEntry id = get(admin.describeConfigs(List.of(node)).all()).get(node).get("log.retention.ms");
        if (id == null) {
            throw new AssertionError("the broker describes no log.retention.ms");
        }
    }

    private void cluster() throws Exception {
        var nodes = get(admin.describeCluster().nodes());
        Set<Integer> ids = nodes.stream().map(n -> n.id()).collect(Collectors.toCollection(HashSet::new));
        expect(ids.size(), 3, "brokers");
        expect(ids.contains(get(admin.describeCluster().controller()).id()), true, "controller is one of them");
        get(admin.describeLogDirs(ids).allDescriptions()).forEach((id, dirs) ->
                dirs.values().forEach(dir -> {
                    expect(dir.error() == null, true, "log dir error of " + id);
                    expect(dir.replicaInfos().isEmpty(), false, "no replicas in a log dir of " + id);
                }));
    }

    private void deleteRecords(String topic) throws Exception {
        Map<TopicPartition, RecordsToDelete> before = partitions(topic).stream()
                .collect(Collectors.toMap(p -> p, p -> RecordsToDelete.beforeOffset(12)));
        for (var deleted : admin.deleteRecords(before).lowWatermarks().values()) {
            expect(get(deleted).lowWatermark(), 12L, "low watermark");
        }
        expect(list(topic, OffsetSpec.earliest()), each(p -> 12L), "earliest");
        readBack(topic, 12);
    }
}
