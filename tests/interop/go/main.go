// franz-go against a running cluster: main BOOTSTRAP RECORDS.
// Prints `pass CLIENT: CHECK` or `FAIL CLIENT: CHECK: WHY` a line.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	client     = "franz-go"
	partitions = 6
)

// record is one line of the input.
type record struct {
	Partition int32       `json:"partition"`
	Key       *string     `json:"key"`
	Value     *string     `json:"value"`
	Headers   [][2]string `json:"headers"`
	Timestamp int64       `json:"timestamp"`
}

var failures int

func check(name string, work func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := work(ctx); err != nil {
		failures++
		fmt.Printf("FAIL %s: %s: %v\n", client, name, err)
		return
	}
	fmt.Printf("pass %s: %s\n", client, name)
}

func load(path string) ([]record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var records []record
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, lines.Err()
}

func byPartition(records []record) [partitions][]record {
	var parts [partitions][]record
	for _, r := range records {
		parts[r.Partition] = append(parts[r.Partition], r)
	}
	return parts
}

func bytesOf(text *string) []byte {
	if text == nil {
		return nil
	}
	return append([]byte{}, *text...)
}

func (r record) kafka(topic string) *kgo.Record {
	out := &kgo.Record{
		Topic: topic, Partition: r.Partition, Key: bytesOf(r.Key), Value: bytesOf(r.Value),
		Timestamp: time.UnixMilli(r.Timestamp),
	}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	return out
}

// differs says how a record read back differs from what was sent, nil and empty told apart.
func (r record) differs(got *kgo.Record, offset int64) error {
	same := func(a []byte, b *string) bool { return (a == nil) == (b == nil) && (b == nil || string(a) == *b) }
	switch {
	case got.Offset != offset:
		return fmt.Errorf("partition %d: offset %d where %d follows", r.Partition, got.Offset, offset)
	case !same(got.Key, r.Key):
		return fmt.Errorf("partition %d offset %d: key %q", r.Partition, offset, got.Key)
	case !same(got.Value, r.Value):
		return fmt.Errorf("partition %d offset %d: value %q", r.Partition, offset, got.Value)
	case got.Timestamp.UnixMilli() != r.Timestamp:
		return fmt.Errorf("partition %d offset %d: timestamp %d, sent %d", r.Partition, offset, got.Timestamp.UnixMilli(), r.Timestamp)
	case len(got.Headers) != len(r.Headers):
		return fmt.Errorf("partition %d offset %d: %d headers", r.Partition, offset, len(got.Headers))
	}
	for i, h := range r.Headers {
		if got.Headers[i].Key != h[0] || string(got.Headers[i].Value) != h[1] {
			return fmt.Errorf("partition %d offset %d: header %v", r.Partition, offset, got.Headers[i])
		}
	}
	return nil
}

func produce(ctx context.Context, boot []string, topic string, records []record, codec kgo.CompressionCodec) error {
	// Idempotence and acks=all are this client's defaults.
	cl, err := kgo.NewClient(kgo.SeedBrokers(boot...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(2*time.Millisecond), kgo.ProducerBatchMaxBytes(16<<10))
	if err != nil {
		return err
	}
	defer cl.Close()
	sent := make([]*kgo.Record, len(records))
	for i, r := range records {
		sent[i] = r.kafka(topic)
	}
	if err := cl.ProduceSync(ctx, sent...).FirstErr(); err != nil {
		return err
	}
	var next [partitions]int64
	for _, r := range sent {
		if r.Offset != next[r.Partition] {
			return fmt.Errorf("partition %d acknowledged offset %d where %d follows", r.Partition, r.Offset, next[r.Partition])
		}
		next[r.Partition]++
	}
	return nil
}

func readBack(ctx context.Context, boot []string, topic string, records []record, start int64) error {
	at := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		at[p] = kgo.NewOffset().At(start)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(boot...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	if err != nil {
		return err
	}
	defer cl.Close()
	expected := byPartition(records)
	var read [partitions]int64
	total := len(records) - partitions*int(start)
	for seen := 0; seen < total; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("after %d of %d records: %w", seen, total, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			got := it.Next()
			offset := start + read[got.Partition]
			if offset >= int64(len(expected[got.Partition])) {
				return fmt.Errorf("partition %d: a record beyond what was sent, offset %d", got.Partition, got.Offset)
			}
			if err := expected[got.Partition][offset].differs(got, offset); err != nil {
				return err
			}
			read[got.Partition]++
			seen++
		}
	}
	// A short poll at the end: nothing may follow the last record.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if extra := cl.PollFetches(short).NumRecords(); extra != 0 {
		return fmt.Errorf("%d records more than were sent", extra)
	}
	return nil
}

func until(ctx context.Context, what string, condition func() (bool, error)) error {
	for {
		ok, err := condition()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never saw: %s (last error %v)", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func hasLeaders(ctx context.Context, adm *kadm.Client, topic string, count int) error {
	return until(ctx, fmt.Sprintf("%d partitions with leaders", count), func() (bool, error) {
		topics, err := adm.ListTopics(ctx, topic)
		if err != nil || topics[topic].Err != nil || len(topics[topic].Partitions) != count {
			return false, err
		}
		for _, p := range topics[topic].Partitions {
			if p.Leader < 0 || len(p.Replicas) != 3 {
				return false, p.Err
			}
		}
		return true, nil
	})
}

func create(ctx context.Context, adm *kadm.Client, topic string) error {
	if _, err := adm.CreateTopic(ctx, partitions, 3, nil, topic); err != nil {
		return err
	}
	return hasLeaders(ctx, adm, topic, partitions)
}

func checkOffsets(what string, listed kadm.ListedOffsets, err error, topic string, want func(p int32) int64) error {
	if err != nil {
		return err
	}
	for p := range int32(partitions) {
		got, ok := listed.Lookup(topic, p)
		if !ok || got.Err != nil || got.Offset != want(p) {
			return fmt.Errorf("%s of partition %d: %+v, expected offset %d", what, p, got, want(p))
		}
	}
	return nil
}

func listOffsets(ctx context.Context, adm *kadm.Client, topic string, records []record) error {
	expected := byPartition(records)
	listed, err := adm.ListStartOffsets(ctx, topic)
	if err := checkOffsets("start", listed, err, topic, func(int32) int64 { return 0 }); err != nil {
		return err
	}
	listed, err = adm.ListEndOffsets(ctx, topic)
	if err := checkOffsets("end", listed, err, topic, func(p int32) int64 { return int64(len(expected[p])) }); err != nil {
		return err
	}
	at := records[len(records)/2].Timestamp
	listed, err = adm.ListOffsetsAfterMilli(ctx, at, topic)
	return checkOffsets("time", listed, err, topic, func(p int32) int64 {
		return int64(slices.IndexFunc(expected[p], func(r record) bool { return r.Timestamp >= at }))
	})
}

func configs(ctx context.Context, adm *kadm.Client, topic string) error {
	changes := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: kadm.StringPtr("2000000")}}
	altered, err := adm.AlterTopicConfigs(ctx, changes, topic)
	if err != nil {
		return err
	}
	for _, a := range altered {
		if a.Err != nil {
			return fmt.Errorf("%w: %s", a.Err, a.ErrMessage)
		}
	}
	return until(ctx, "max.message.bytes 2000000", func() (bool, error) {
		described, err := adm.DescribeTopicConfigs(ctx, topic)
		if err != nil {
			return false, err
		}
		resource, err := described.On(topic, nil)
		for _, config := range resource.Configs {
			if config.Key == "max.message.bytes" {
				return config.MaybeValue() == "2000000", resource.Err
			}
		}
		return false, err
	})
}

func deleteRecords(ctx context.Context, adm *kadm.Client, topic string) error {
	before := kadm.Offsets{}
	for p := range int32(partitions) {
		before.AddOffset(topic, p, 7, -1)
	}
	deleted, err := adm.DeleteRecords(ctx, before)
	if err != nil {
		return err
	}
	for p := range int32(partitions) {
		if got, ok := deleted.Lookup(topic, p); !ok || got.Err != nil || got.LowWatermark != 7 {
			return fmt.Errorf("partition %d: %+v, expected low watermark 7", p, got)
		}
	}
	return nil
}

func main() {
	boot := strings.Split(os.Args[1], ",")
	records, err := load(os.Args[2])
	if err != nil {
		panic(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(boot...), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		panic(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	prefix := fmt.Sprintf("go-%d", time.Now().UnixNano())
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for _, name := range slices.Sorted(maps.Keys(codecs)) {
		check(fmt.Sprintf("produce (idempotent, %s) and read back %d records", name, len(records)), func(ctx context.Context) error {
			topic := prefix + "-" + name
			if err := create(ctx, adm, topic); err != nil {
				return err
			}
			if err := produce(ctx, boot, topic, records, codecs[name]); err != nil {
				return err
			}
			return readBack(ctx, boot, topic, records, 0)
		})
	}
	topic := prefix + "-zstd"
	check("ListOffsets: start, end and by timestamp", func(ctx context.Context) error { return listOffsets(ctx, adm, topic, records) })
	check("alter and describe configs", func(ctx context.Context) error { return configs(ctx, adm, topic) })
	check("delete records below offset 7", func(ctx context.Context) error {
		if err := deleteRecords(ctx, adm, topic); err != nil {
			return err
		}
		return readBack(ctx, boot, topic, records, 7)
	})
	check("update partitions: 6 to 9", func(ctx context.Context) error {
		updated, err := adm.UpdatePartitions(ctx, 9, topic)
		if err == nil {
			err = updated.Error()
		}
		if err != nil {
			return err
		}
		return hasLeaders(ctx, adm, topic, 9)
	})
	check("delete topics", func(ctx context.Context) error {
		var topics []string
		for name := range codecs {
			topics = append(topics, prefix+"-"+name)
		}
		deleted, err := adm.DeleteTopics(ctx, topics...)
		if err == nil {
			err = deleted.Error()
		}
		if err != nil {
			return err
		}
		return until(ctx, "the topics gone", func() (bool, error) {
			left, err := adm.ListTopics(ctx)
			return err == nil && !slices.ContainsFunc(topics, left.Has), err
		})
	})
	if failures > 0 {
		os.Exit(1)
	}
}
