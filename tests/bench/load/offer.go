package main

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// The time at which a record was made, at the start of its value.
	stampBytes = 8
	// Kafka's own delivery.timeout.ms.
	deliveryTimeout = 2 * time.Minute
	// Records that are due within it are made together.
	tick = time.Millisecond
	// Joining the end of a topic takes the reader less.
	readerHeadStart = time.Second
	readerPatience  = 5 * time.Second
)

// offer does not wait for the cluster: a record is made when it is due, and counts as refused when its client's
// buffer has no room for it. Latency is from there to the acknowledgement. A signal ends it early, with all it saw.
func offer(ctx context.Context, s *settings) (told, error) {
	seen := newSeen()
	if s.read {
		client, err := readStamps(ctx, s, seen)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		time.Sleep(readerHeadStart)
	}
	spent := cpuSeconds()
	seen.began = time.Now()
	var group sync.WaitGroup
	errs := make(chan error, s.clients)
	for range s.clients {
		group.Go(func() { errs <- offerShare(ctx, s, seen) })
	}
	group.Wait()
	for range s.clients {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	drained := time.Since(seen.ended)
	if s.read {
		seen.awaitReader(readerPatience)
	}
	found := seen.tell(s)
	found["drained_seconds"] = drained.Seconds()
	found["client_cpu_seconds"] = cpuSeconds() - spent
	return found, nil
}

func offerShare(ctx context.Context, s *settings, seen *seen) error {
	// By number it is never full: records have more than a byte.
	client, err := producer(s, kgo.MaxBufferedRecords(s.buffer), kgo.RecordDeliveryTimeout(deliveryTimeout))
	if err != nil {
		return err
	}
	defer client.Close()
	rate := s.rate / float64(s.clients)
	every := max(time.Duration(float64(time.Second)/rate), tick)
	value := noise(s.size)
	made := 0
	// What was accepted is still delivered.
	delivery := context.WithoutCancel(ctx)
	for elapsed := time.Duration(0); elapsed.Seconds() < s.seconds && ctx.Err() == nil; elapsed += every {
		time.Sleep(time.Until(seen.began.Add(elapsed)))
		due := int((elapsed + every).Seconds() * rate)
		accepted := offerSome(delivery, client, s, seen, value, due-made)
		seen.offered(due-made, due-made-accepted)
		made = due
	}
	seen.ends(time.Now())
	return client.Flush(delivery)
}

// offerSome gives up for this turn when the client's buffer is full, and tells how many records fitted.
func offerSome(ctx context.Context, client *kgo.Client, s *settings, seen *seen, value []byte, count int) int {
	for number := range count {
		if client.BufferedProduceBytes()+int64(s.size) > int64(s.buffer) {
			return number
		}
		made := time.Now()
		if s.read {
			value = append([]byte(nil), value...)
			binary.LittleEndian.PutUint64(value, uint64(made.UnixNano()))
		}
		record := &kgo.Record{Topic: s.topic, Value: value}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) { seen.settled(made, err) })
	}
	return count
}

// readStamps follows the topic from its end on until the client is closed.
func readStamps(ctx context.Context, s *settings, seen *seen) (*kgo.Client, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(s.seeds()...),
		kgo.ConsumeTopics(s.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.FetchMaxWait(500*time.Millisecond),
		kgo.FetchMinBytes(1),
	)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			fetches := client.PollFetches(ctx)
			if fetches.IsClientClosed() || ctx.Err() != nil {
				return
			}
			now := time.Now()
			fetches.EachRecord(func(record *kgo.Record) {
				made := int64(binary.LittleEndian.Uint64(record.Value))
				seen.read(now.Sub(time.Unix(0, made)))
			})
		}
	}()
	return client, nil
}
