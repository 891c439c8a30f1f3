package tidelog.interop;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Transactions of Apache Kafka's own Java client against a running cluster: Transactions BOOTSTRAP.
 * Prints "pass CLIENT: CHECK" or "FAIL CLIENT: CHECK: WHY" a line.
 */
public final class Transactions {
    private static final String CLIENT = "kafka-clients (Java)";
    private static final int PARTITIONS = 3;
    private static final Duration WAIT = Duration.ofSeconds(30);

    private interface Work {
        void run() throws Exception;
    }

    private final String bootstrap;
    private final Admin admin;
    private final String prefix = "java-txn-" + Long.toHexString(System.nanoTime());
    private int failures;

    private Transactions(String bootstrap) {
        this.bootstrap = bootstrap;
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
    }

    public static void main(String[] args) {
        Transactions transactions = new Transactions(args[0]);
        transactions.all();
        transactions.admin.close(Duration.ofSeconds(5));
        System.exit(transactions.failures == 0 ? 0 : 1);
    }

    private void all() {
        check("commit and abort, as read_committed and read_uncommitted see them", this::visibility);
        check("consume, transform, produce 3000 records: each once", this::consumeTransformProduce);
        check("a second producer of the same transactional id fences the first", this::fencing);
        check("a transaction that runs out of time is aborted", this::timeout);
        check("list and describe transactions, describe producers, abort one that hangs", this::tools);
    }

    private void check(String name, Work work) {
        try {
            work.run();
            System.out.println("pass " + CLIENT + ": " + name);
        } catch (Exception | AssertionError error) {
            failures++;
            System.out.println("FAIL " + CLIENT + ": " + name + ": " + error);
            error.printStackTrace();
        }
    }

    private static void expect(Object got, Object expected, String what) {
        if (!got.equals(expected)) {
            throw new AssertionError(what + ": " + got + ", expected " + expected);
        }
    }

    private void create(String topic) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 3))).all().get();
    }

    private KafkaProducer<String, String> producer(String id, int timeoutMs) {
        KafkaProducer<String, String> producer = new KafkaProducer<>(
            Map.of("bootstrap.servers", bootstrap, "transactional.id", id, "transaction.timeout.ms", timeoutMs,
                "linger.ms", 1, "max.block.ms", 30000),
            new StringSerializer(), new StringSerializer());
        producer.initTransactions();
        return producer;
    }

    private KafkaConsumer<String, String> consumer(String group, String isolation) {
        return new KafkaConsumer<>(
            Map.of("bootstrap.servers", bootstrap, "group.id", group, "isolation.level", isolation,
                "enable.auto.commit", false, "auto.offset.reset", "earliest", "max.poll.records", 100),
            new StringDeserializer(), new StringDeserializer());
    }

    private static List<TopicPartition> partitions(String topic) {
        List<TopicPartition> all = new ArrayList<>();
        for (int i = 0; i < PARTITIONS; i++) {
            all.add(new TopicPartition(topic, i));
        }
        return all;
    }

    /** Everything up to the end that this isolation sees now. */
    private List<String> readAll(String topic, String isolation) {
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer("reader", isolation)) {
            consumer.assign(partitions(topic));
            consumer.seekToBeginning(partitions(topic));
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions(topic));
            long end = System.nanoTime() + WAIT.toNanos();
            while (ends.entrySet().stream().anyMatch(e -> consumer.position(e.getKey()) < e.getValue())) {
                if (System.nanoTime() > end) {
                    throw new AssertionError("the end is not reached: " + ends);
                }
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                    values.add(record.value());
                }
            }
        }
        values.sort(null);
        return values;
    }

    private void visibility() throws Exception {
        String topic = prefix + "-visibility";
        create(topic);
        List<String> committed = new ArrayList<>();
        List<String> all = new ArrayList<>();
        try (KafkaProducer<String, String> producer = producer(topic, 60000)) {
            for (int round = 0; round < 10; round++) {
                producer.beginTransaction();
                for (int i = 0; i < 20; i++) {
                    String value = String.format("%02d-%02d", round, i);
                    producer.send(new ProducerRecord<>(topic, i % PARTITIONS, "k" + i, value));
                    all.add(value);
                    if (round % 3 != 1) {
                        committed.add(value);
                    }
                }
                if (round % 3 == 1) {
                    producer.flush();
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
            expect(readAll(topic, "read_committed"), committed, "read_committed");
            expect(readAll(topic, "read_uncommitted"), all, "read_uncommitted");
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, 0, "k", "open")).get();
            expect(readAll(topic, "read_committed"), committed, "beside an open transaction");
            producer.commitTransaction();
            committed.add("open");
            expect(readAll(topic, "read_committed"), committed, "after its commit");
        }
    }

    private void consumeTransformProduce() throws Exception {
        String input = prefix + "-input";
        String output = prefix + "-output";
        create(input);
        create(output);
        Set<String> expected = new HashSet<>();
        try (KafkaProducer<String, String> producer = producer(input, 60000)) {
            producer.beginTransaction();
            for (int i = 0; i < 3000; i++) {
                producer.send(new ProducerRecord<>(input, i % PARTITIONS, null, "" + i));
                expected.add("<" + i + ">");
            }
            producer.commitTransaction();
        }
        String group = prefix + "-group";
        int round = 0;
        int done = 0;
        KafkaConsumer<String, String> consumer = consumer(group, "read_committed");
        KafkaProducer<String, String> producer = producer(output, 60000);
        consumer.subscribe(List.of(input));
        long end = System.nanoTime() + WAIT.toNanos();
        while (done < 3000) {
            if (System.nanoTime() > end) {
                throw new AssertionError("only " + done + " records");
            }
            ConsumerRecords<String, String> polled = consumer.poll(Duration.ofMillis(100));
            if (polled.isEmpty()) {
                continue;
            }
            producer.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            for (ConsumerRecord<String, String> record : polled) {
                producer.send(new ProducerRecord<>(output, record.partition(), null, "<" + record.value() + ">"));
                offsets.put(new TopicPartition(input, record.partition()), new OffsetAndMetadata(record.offset() + 1));
            }
            producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
            round++;
            if (round % 4 == 2) {
                producer.abortTransaction();
                // What was read does not count: begin again where the group stands.
                for (Map.Entry<TopicPartition, OffsetAndMetadata> e : consumer.committed(consumer.assignment()).entrySet()) {
                    consumer.seek(e.getKey(), e.getValue() == null ? 0 : e.getValue().offset());
                }
            } else {
                producer.commitTransaction();
                done += polled.count();
            }
        }
        consumer.close();
        producer.close();
        List<String> got = readAll(output, "read_committed");
        expect(got.size(), 3000, "records");
        expect(new HashSet<>(got), expected, "values");
    }

    private void fencing() throws Exception {
        String topic = prefix + "-fencing";
        create(topic);
        KafkaProducer<String, String> zombie = producer(topic, 60000);
        zombie.beginTransaction();
        zombie.send(new ProducerRecord<>(topic, 0, null, "of the zombie")).get();
        try (KafkaProducer<String, String> heir = producer(topic, 60000)) {
            heir.beginTransaction();
            heir.send(new ProducerRecord<>(topic, 0, null, "of the heir")).get();
            try {
                zombie.send(new ProducerRecord<>(topic, 0, null, "of the zombie, later"));
                zombie.commitTransaction();
                throw new AssertionError("the zombie has committed");
            } catch (ProducerFencedException | InvalidProducerEpochException expected) {
                // As it should be.
            } catch (KafkaException error) {
                if (!(error.getCause() instanceof ProducerFencedException)
                    && !(error.getCause() instanceof InvalidProducerEpochException)) {
                    throw error;
                }
            }
            heir.commitTransaction();
        }
        zombie.close(Duration.ZERO);
        expect(readAll(topic, "read_committed"), List.of("of the heir"), "read_committed");
    }

    private void timeout() throws Exception {
        String topic = prefix + "-timeout";
        create(topic);
        KafkaProducer<String, String> slow = producer(topic, 1000);
        slow.beginTransaction();
        slow.send(new ProducerRecord<>(topic, 0, null, "too slow")).get();
        try (KafkaProducer<String, String> other = producer(topic + "-other", 60000)) {
            other.beginTransaction();
            other.send(new ProducerRecord<>(topic, 0, null, "in time"));
            other.commitTransaction();
        }
        long end = System.nanoTime() + WAIT.toNanos();
        while (readAll(topic, "read_committed").isEmpty()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("the transaction is still open");
            }
            Thread.sleep(50);
        }
        expect(readAll(topic, "read_committed"), List.of("in time"), "read_committed");
        try {
            slow.commitTransaction();
            throw new AssertionError("committed after its time");
        } catch (KafkaException expected) {
            slow.close(Duration.ZERO);
        }
    }

    private void tools() throws Exception {
        String topic = prefix + "-tools";
        create(topic);
        TopicPartition partition = new TopicPartition(topic, 0);
        KafkaProducer<String, String> producer = producer(topic, 60000);
        producer.beginTransaction();
        producer.send(new ProducerRecord<>(topic, 0, null, "hanging")).get();
        boolean listed = admin.listTransactions().all().get().stream()
            .anyMatch(t -> t.transactionalId().equals(topic) && t.state() == TransactionState.ONGOING);
        expect(listed, true, "listed");
        TransactionDescription described = admin.describeTransactions(List.of(topic)).description(topic).get();
        expect(described.state(), TransactionState.ONGOING, "state");
        expect(described.topicPartitions(), Set.of(partition), "partitions");
        List<ProducerState> producers =
            admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers();
        expect(producers.size(), 1, "producers");
        ProducerState state = producers.get(0);
        expect(state.producerId(), described.producerId(), "producer id");
        expect(state.currentTransactionStartOffset().isPresent(), true, "open transaction");
        admin.abortTransaction(new AbortTransactionSpec(partition, state.producerId(), (short) state.producerEpoch(),
            Math.max(0, state.coordinatorEpoch().orElse(0)))).all().get();
        state = admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers().get(0);
        expect(state.currentTransactionStartOffset().isPresent(), false, "open transaction after the abort");
        expect(readAll(topic, "read_committed"), List.of(), "read_committed");
        producer.close(Duration.ZERO);
    }
}
