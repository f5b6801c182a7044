import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.Random;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.Utils;

/// What Kafka's own client library writes and computes, for comparison with ours.
///
/// `write DIR`: batches into DIR/<name>.batch, and on stdout what is in them.
/// `murmur2`: for each hexadecimal key on stdin the partition of 1, 16 and 1,000.
public class KafkaRecords {
    static final HexFormat HEX = HexFormat.of();

    public static void main(String[] args) throws Exception {
        if (args[0].equals("murmur2")) {
            for (String line : new String(System.in.readAllBytes(), StandardCharsets.UTF_8).split("\n")) {
                int hash = Utils.toPositive(Utils.murmur2(HEX.parseHex(line)));
                System.out.println(hash % 1 + " " + hash % 16 + " " + hash % 1000);
            }
            return;
        }
        Path dir = Path.of(args[1]);
        write(dir, "none", Compression.NONE, TimestampType.CREATE_TIME, -1, 500);
        write(dir, "zstd", Compression.zstd().build(), TimestampType.CREATE_TIME, -1, 500);
        write(dir, "idempotent", Compression.NONE, TimestampType.CREATE_TIME, 4711, 3);
        write(dir, "append-time", Compression.zstd().build(), TimestampType.LOG_APPEND_TIME, -1, 20);
        write(dir, "one", Compression.NONE, TimestampType.CREATE_TIME, -1, 1);
    }

    static void write(Path dir, String name, Compression compression, TimestampType type, long producer, int count)
            throws Exception {
        Random random = new Random(name.hashCode());
        long base = 1_700_000_000_000L;
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(1 << 20), RecordBatch.MAGIC_VALUE_V2,
            compression, type, 1234, base + 77, producer, (short) (producer < 0 ? -1 : 3), producer < 0 ? -1 : 9, false,
            RecordBatch.NO_PARTITION_LEADER_EPOCH);
        for (int i = 0; i < count; i++) {
            byte[] key = i % 5 == 1 ? null : ("device-" + random.nextInt(50)).getBytes(StandardCharsets.UTF_8);
            byte[] value = i % 7 == 2 ? null : new byte[random.nextInt(120)];
            if (value != null) {
                random.nextBytes(value);
            }
            Header[] headers = new Header[i % 4];
            for (int j = 0; j < headers.length; j++) {
                headers[j] = new RecordHeader("h\u00e9ader-" + j % 2, j == 1 ? null : ("v" + i).getBytes(StandardCharsets.UTF_8));
            }
            // Times go back as well as forth.
            builder.append(base + random.nextInt(100_000) - 50_000, key, value, headers);
        }
        MemoryRecords records = builder.build();
        ByteBuffer buffer = records.buffer();
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        Files.write(dir.resolve(name + ".batch"), bytes);
        for (RecordBatch batch : records.batches()) {
            System.out.println("batch " + name + " " + batch.baseOffset() + " " + batch.lastOffset() + " "
                + batch.maxTimestamp() + " " + batch.producerId() + " " + batch.producerEpoch() + " " + batch.baseSequence());
            for (Record record : batch) {
                StringBuilder line = new StringBuilder("record " + record.offset() + " " + record.timestamp() + " "
                    + hex(record.key()) + " " + hex(record.value()));
                for (Header header : record.headers()) {
                    byte[] text = header.value();
                    line.append(" " + hex(ByteBuffer.wrap(header.key().getBytes(StandardCharsets.UTF_8))) + "="
                        + hex(text == null ? null : ByteBuffer.wrap(text)));
                }
                System.out.println(line);
            }
        }
    }

    static String hex(ByteBuffer buffer) {
        if (buffer == null) {
            return "null";
        }
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return "x" + HEX.formatHex(bytes);
    }
}
