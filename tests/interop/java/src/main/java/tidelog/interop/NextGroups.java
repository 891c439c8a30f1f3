package tidelog.interop;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidRegularExpression;
import org.apache.kafka.common.errors.UnsupportedAssignorException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** What Kafka's own consumer can ask of the next group protocol (KIP-848): NextGroups BOOTSTRAP. */
public final class NextGroups {
    private static final Duration POLL = Duration.ofMillis(100);
    private static final long LIMIT_MS = 40_000;
    private static String bootstrap;
    private static Admin admin;
    private static boolean failed;

    private interface Work {
        void run(String name) throws Exception;
    }

    private static void check(String what, Work work) {
        try {
            work.run("next-" + UUID.randomUUID().toString().substring(0, 8));
            System.out.println("pass kafka-clients: next groups: " + what);
        } catch (Throwable e) {
            failed = true;
            System.out.println("FAIL kafka-clients: next groups: " + what + ": " + e);
            e.printStackTrace();
        }
    }

    private static KafkaConsumer<byte[], byte[]> member(String group, String... settings) {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("group.id", group);
        config.put("group.protocol", "consumer");
        for (String setting : settings) {
            String[] pair = setting.split("=", 2);
            config.put(pair[0], pair[1]);
        }
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        return new KafkaConsumer<>(config, bytes, bytes);
    }

    private static void create(String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 3))).all().get();
    }

    @SafeVarargs
    private static void until(String what, BooleanSupplier done, KafkaConsumer<byte[], byte[]>... members) {
        long end = System.currentTimeMillis() + LIMIT_MS;
        while (!done.getAsBoolean()) {
            if (System.currentTimeMillis() > end) {
                throw new AssertionError("not in time: " + what);
            }
            for (var member : members) {
                member.poll(POLL);
            }
        }
    }

    private static Set<Integer> held(KafkaConsumer<byte[], byte[]> member) {
        Set<Integer> partitions = new TreeSet<>();
        for (TopicPartition p : member.assignment()) {
            partitions.add(p.partition());
        }
        return partitions;
    }

    private static int epoch(String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group).groupEpoch().orElseThrow();
    }

    private static void pattern(String name) throws Exception {
        create(name + "-one", 2);
        try (var member = member(name)) {
            member.subscribe(new SubscriptionPattern(name + "-.*"));
            until("the first topic", () -> member.assignment().size() == 2, member);
            create(name + "-two", 3);
            create("other-" + name + "-two", 3);
            until("the second topic", () -> member.assignment().size() == 5, member);
            admin.deleteTopics(List.of(name + "-one")).all().get();
            until("the first topic to go", () -> member.assignment().size() == 3, member);
        }
        try (var member = member(name)) {
            member.subscribe(new SubscriptionPattern("("));
            until("a refusal", () -> false, member);
        } catch (InvalidRegularExpression e) {
            return;
        }
    }

    private static void comesBack(String name) throws Exception {
        create(name, 4);
        try (var other = member(name, "group.instance.id=other")) {
            other.subscribe(List.of(name));
            var first = member(name, "group.instance.id=mine");
            first.subscribe(List.of(name));
            until("both to hold two", () -> held(first).size() == 2 && held(other).size() == 2, first, other);
            Set<Integer> had = held(first);
            int epoch = epoch(name);
            first.close();
            other.poll(POLL);
            try (var again = member(name, "group.instance.id=mine")) {
                again.subscribe(List.of(name));
                until("it to be back", () -> held(again).size() == 2, again, other);
                if (!held(again).equals(had) || epoch(name) != epoch || held(other).size() != 2) {
                    throw new AssertionError(had + " became " + held(again) + ", epoch " + epoch(name));
                }
            }
        }
    }

    private static void ranges(String name) throws Exception {
        create(name, 6);
        List<KafkaConsumer<byte[], byte[]>> members = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            var member = member(name, "group.remote.assignor=range", "group.instance.id=i" + i);
            member.subscribe(List.of(name));
            members.add(member);
        }
        var a = members.get(0);
        var b = members.get(1);
        var c = members.get(2);
        until("ranges", () -> held(a).equals(Set.of(0, 1)) && held(b).equals(Set.of(2, 3))
            && held(c).equals(Set.of(4, 5)), a, b, c);
        members.forEach(KafkaConsumer::close);
        try (var member = member(name, "group.remote.assignor=sticky")) {
            member.subscribe(List.of(name));
            until("a refusal", () -> false, member);
        } catch (UnsupportedAssignorException e) {
            return;
        }
    }

    private static void configs(String name) throws Exception {
        ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, name);
        AlterConfigOp set =
            new AlterConfigOp(new ConfigEntry("consumer.heartbeat.interval.ms", "700"), AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(group, List.of(set))).all().get();
        var entry = admin.describeConfigs(List.of(group)).all().get().get(group).get("consumer.heartbeat.interval.ms");
        if (!entry.value().equals("700") || entry.source() != ConfigEntry.ConfigSource.DYNAMIC_GROUP_CONFIG) {
            throw new AssertionError(entry);
        }
        if (!admin.listConfigResources(Set.of(ConfigResource.Type.GROUP), new
                org.apache.kafka.clients.admin.ListConfigResourcesOptions()).all().get().contains(group)) {
            throw new AssertionError("the group is not listed");
        }
        Integer level = (int) admin.describeFeatures().featureMetadata().get().finalizedFeatures()
            .get("group.version").maxVersionLevel();
        if (level != 1) {
            throw new AssertionError("group.version " + level);
        }
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
        check("a pattern follows topics that come and go; a wrong one is refused", NextGroups::pattern);
        check("a static member comes back to its partitions without a rebalance", NextGroups::comesBack);
        check("the range assignor, and none that is unknown", NextGroups::ranges);
        check("configs of a group, and group.version", NextGroups::configs);
        admin.close();
        System.exit(failed ? 1 : 0);
    }
}
