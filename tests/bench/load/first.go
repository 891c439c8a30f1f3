package main

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const retryEvery = 5 * time.Millisecond

// first is started before the brokers are, so that its own start does not count. The times are seconds since 1970:
// whoever starts the brokers knows when that was.
func first(ctx context.Context, s *settings) (told, error) {
	if err := dial(ctx, s); err != nil {
		return nil, err
	}
	connected := time.Now()
	client, err := producer(s,
		kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.DialTimeout(time.Second),
		kgo.MetadataMinAge(pollEvery),
		kgo.RetryBackoffFn(func(int) time.Duration { return retryEvery }),
		kgo.UnknownTopicRetries(-1),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if s.create {
		for createTopic(ctx, kadm.NewClient(client), s) != nil {
			if !pause(ctx) {
				return nil, ctx.Err()
			}
		}
	}
	times, err := oneToEach(ctx, client, s)
	if err != nil {
		return nil, err
	}
	return told{"connected": seconds(connected), "first": seconds(times[0]), "all": seconds(times[len(times)-1])}, nil
}

func seconds(at time.Time) float64 { return float64(at.UnixNano()) / 1e9 }

// dial tries all brokers until one listens.
func dial(ctx context.Context, s *settings) error {
	for {
		for _, address := range s.seeds() {
			connection, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				return connection.Close()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// oneToEach writes a record to every partition, and tells when each was acknowledged, in order.
func oneToEach(ctx context.Context, client *kgo.Client, s *settings) ([]time.Time, error) {
	var lock sync.Mutex
	var times []time.Time
	var failed error
	value := noise(s.size)
	for partition := range s.partitions {
		record := &kgo.Record{Topic: s.topic, Partition: int32(partition), Value: value}
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				failed = err
			}
			times = append(times, time.Now())
		})
	}
	if err := client.Flush(ctx); err != nil {
		return nil, err
	}
	return times, failed
}
