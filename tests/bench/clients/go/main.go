// franz-go under the load: PROGRAM produce|consume BOOTSTRAP TOPIC RECORDS RECORD_BYTES.
// Writes how much was allocated to $ALLOCATIONS_FILE, if that is set: COUNT BYTES.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// As in ../rust/src/lib.rs.
const (
	partitions          = 6
	linger              = 5 * time.Millisecond
	batchBytes          = 128 << 10
	bufferBytes         = 32 << 20
	partitionFetchBytes = 1 << 20
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	seeds := kgo.SeedBrokers(strings.Split(os.Args[2], ",")...)
	topic := os.Args[3]
	records, err := strconv.Atoi(os.Args[4])
	must(err)
	size, err := strconv.Atoi(os.Args[5])
	must(err)
	var count, sum int
	if os.Args[1] == "produce" {
		count, sum = produce(seeds, topic, records, size)
	} else {
		count, sum = consume(seeds, topic, records)
	}
	if count != records || sum != records*size {
		must(fmt.Errorf("%d records with %d bytes", count, sum))
	}
	if path := os.Getenv("ALLOCATIONS_FILE"); path != "" {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		told := fmt.Sprintf("%d %d\n", stats.Mallocs, stats.TotalAlloc)
		must(os.WriteFile(path, []byte(told), 0o644))
	}
}

func produce(seeds kgo.Opt, topic string, records, size int) (int, int) {
	// Idempotent with acks=all, as it is without saying so.
	client, err := kgo.NewClient(seeds, kgo.ProducerLinger(linger), kgo.ProducerBatchMaxBytes(batchBytes),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MaxBufferedBytes(bufferBytes), kgo.MaxBufferedRecords(10_000_000))
	must(err)
	defer client.Close()
	value := bytes.Repeat([]byte("x"), size)
	ctx := context.Background()
	var delivered atomic.Int64
	told := func(_ *kgo.Record, err error) {
		must(err)
		delivered.Add(1)
	}
	for number := range records {
		client.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(number % partitions), Value: value}, told)
	}
	must(client.Flush(ctx))
	return int(delivered.Load()), records * size
}

func consume(seeds kgo.Opt, topic string, records int) (int, int) {
	all := map[int32]kgo.Offset{}
	for partition := range int32(partitions) {
		all[partition] = kgo.NewOffset().AtStart()
	}
	client, err := kgo.NewClient(seeds, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: all}),
		kgo.FetchMaxPartitionBytes(partitionFetchBytes))
	must(err)
	defer client.Close()
	var count, sum int
	for count < records {
		fetches := client.PollFetches(context.Background())
		must(fetches.Err())
		fetches.EachRecord(func(record *kgo.Record) {
			count++
			sum += len(record.Value)
		})
	}
	return count, sum
}
