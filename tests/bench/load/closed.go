package main

import (
	"context"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// producer is idempotent with acks=all, as franz-go is without saying so.
func producer(s *settings, more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.seeds()...),
		kgo.ProducerLinger(s.linger),
		kgo.ProducerBatchMaxBytes(int32(s.batch)),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.MaxBufferedRecords(200_000),
	}, more...)...)
}

// noise does not compress.
func noise(size int) []byte {
	value := make([]byte, size)
	rand.Read(value) // never fails
	return value
}

func produce(ctx context.Context, s *settings) (told, error) {
	var failed atomic.Int64
	var group sync.WaitGroup
	errs := make(chan error, s.clients)
	began, spent := time.Now(), cpuSeconds()
	for number := range s.clients {
		share := (s.records + number) / s.clients
		group.Go(func() { errs <- produceShare(ctx, s, share, &failed) })
	}
	group.Wait()
	took := time.Since(began).Seconds()
	for range s.clients {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	acknowledged := float64(s.records) - float64(failed.Load())
	return told{
		"records_per_second": acknowledged / took,
		"bytes_per_second":   acknowledged * float64(s.size) / took,
		"seconds":            took,
		"failed":             failed.Load(),
		"client_cpu_seconds": cpuSeconds() - spent,
	}, nil
}

func produceShare(ctx context.Context, s *settings, records int, failed *atomic.Int64) error {
	// The largest record and the batch around it must fit.
	client, err := producer(s, kgo.MaxBufferedBytes(max(256<<20, 4*s.batch)))
	if err != nil {
		return err
	}
	defer client.Close()
	value := noise(s.size)
	for range records {
		client.Produce(ctx, &kgo.Record{Topic: s.topic, Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	return client.Flush(ctx)
}

func consume(ctx context.Context, s *settings) (told, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(s.seeds()...),
		kgo.ConsumeTopics(s.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(50<<20),
		kgo.FetchMaxPartitionBytes(4<<20),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	began, spent, records, bytes := time.Now(), cpuSeconds(), 0, 0
	for records < s.records {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			records++
			bytes += len(record.Value)
		})
	}
	took := time.Since(began).Seconds()
	return told{
		"records_per_second": float64(records) / took,
		"bytes_per_second":   float64(bytes) / took,
		"seconds":            took,
		"client_cpu_seconds": cpuSeconds() - spent,
	}, nil
}
