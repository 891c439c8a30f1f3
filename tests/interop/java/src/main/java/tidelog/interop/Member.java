package tidelog.interop;

import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * A member of a consumer group: Member BOOTSTRAP GROUP TOPIC [SETTING=VALUE ...]. SIGTERM makes it leave.
 * With -Dnext=true it speaks the next group protocol (KIP-848). What it prints is described in python/member.py.
 */
public final class Member {
    private static void say(String kind, long... numbers) {
        StringBuilder line = new StringBuilder(kind).append(' ');
        line.append(ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now()));
        for (long n : numbers) {
            line.append(' ').append(n);
        }
        System.out.println(line);
        System.out.flush();
    }

    public static void main(String[] args) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("group.id", args[1]);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("max.poll.records", "500");
        settings.put("session.timeout.ms", "6000");
        settings.put("heartbeat.interval.ms", "500");
        if (Boolean.getBoolean("next")) {
            settings.put("group.protocol", "consumer");
            // The broker says.
            settings.remove("session.timeout.ms");
            settings.remove("heartbeat.interval.ms");
        }
        for (int i = 3; i < args.length; i++) {
            String[] pair = args[i].split("=", 2);
            if (pair[1].isEmpty()) {
                settings.remove(pair[0]);
            } else {
                settings.put(pair[0], pair[1]);
            }
        }
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        CountDownLatch closed = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                closed.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        consumer.subscribe(List.of(args[2]));
        try {
            while (true) {
                Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
                var records = consumer.poll(Duration.ofMillis(200));
                for (TopicPartition partition : records.partitions()) {
                    var list = records.records(partition);
                    long first = list.get(0).offset();
                    long end = list.get(list.size() - 1).offset() + 1;
                    if (end - first != list.size()) {
                        throw new IllegalStateException("a gap in what was read");
                    }
                    say("R", partition.partition(), first, end);
                    next.put(partition, new OffsetAndMetadata(end));
                }
                if (next.isEmpty()) {
                    continue;
                }
                try {
                    consumer.commitSync(next);
                    next.forEach((partition, offset) -> say("C", partition.partition(), offset.offset()));
                } catch (WakeupException e) {
                    throw e;
                } catch (CommitFailedException e) {
                    // A rebalance: whoever has the partition now reads these again.
                } catch (KafkaException e) {
                    System.err.println(e);
                }
            }
        } catch (WakeupException e) {
            // Told to leave.
        } finally {
            try {
                consumer.close();
            } finally {
                closed.countDown();
            }
        }
    }
}
