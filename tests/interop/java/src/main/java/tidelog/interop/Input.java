package tidelog.interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

/** One record of the input, as it is to be sent. */
record Input(int partition, byte[] key, byte[] value, List<Header> headers, long timestamp) {

    static List<Input> load(String path) throws IOException {
        ObjectMapper mapper = new ObjectMapper();
        List<Input> records = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(path))) {
            JsonNode node = mapper.readTree(line);
            List<Header> headers = new ArrayList<>();
            for (JsonNode header : node.get("headers")) {
                headers.add(new RecordHeader(header.get(0).asText(), bytes(header.get(1))));
            }
            records.add(new Input(node.get("partition").asInt(), bytes(node.get("key")), bytes(node.get("value")),
                    headers, node.get("timestamp").asLong()));
        }
        return records;
    }

    private static byte[] bytes(JsonNode text) {
        return text.isNull() ? null : text.asText().getBytes(java.nio.charset.StandardCharsets.UTF_8);
    }

    ProducerRecord<byte[], byte[]> to(String topic) {
        return new ProducerRecord<>(topic, partition, timestamp, key, value, headers);
    }
}
