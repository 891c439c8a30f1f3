package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const pollEvery = 10 * time.Millisecond

// pause waits for the next look, and is false when there is no time left.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pollEvery):
		return true
	}
}

func admin(s *settings) (*kadm.Client, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.seeds()...), kgo.MetadataMinAge(pollEvery), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(client), nil
}

func wait(ctx context.Context, s *settings) (told, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.seeds()...), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	// kadm would answer from its cache.
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = []kmsg.MetadataRequestTopic{}
	seen := 0
	for {
		if metadata, err := request.RequestWith(ctx, client); err == nil {
			if seen = len(metadata.Brokers); seen >= s.nodes {
				return told{"brokers": seen}, nil
			}
		}
		if !pause(ctx) {
			return nil, fmt.Errorf("%d of %d brokers in the metadata", seen, s.nodes)
		}
	}
}

func create(ctx context.Context, s *settings) (told, error) {
	client, err := admin(s)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	began := time.Now()
	if err := createTopic(ctx, client, s); err != nil {
		return nil, err
	}
	for {
		leaders := 0
		topics, err := client.ListTopics(ctx, s.topic)
		if err == nil {
			for _, partition := range topics[s.topic].Partitions {
				if partition.Err == nil && partition.Leader >= 0 {
					leaders++
				}
			}
			if leaders == s.partitions {
				return told{"seconds": time.Since(began).Seconds()}, nil
			}
		}
		if !pause(ctx) {
			return nil, fmt.Errorf("%d of %d partitions have a leader", leaders, s.partitions)
		}
	}
}

// createTopic is content with a topic that is there.
func createTopic(ctx context.Context, client *kadm.Client, s *settings) error {
	config := map[string]*string{}
	for pair := range strings.SplitSeq(s.config, ",") {
		if name, value, found := strings.Cut(pair, "="); found {
			config[name] = &value
		}
	}
	made, err := client.CreateTopics(ctx, int32(s.partitions), int16(s.rf), config, s.topic)
	if err != nil {
		return err
	}
	if err := made[s.topic].Err; err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	return nil
}

func remove(ctx context.Context, s *settings) (told, error) {
	client, err := admin(s)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	removed, err := client.DeleteTopics(ctx, s.topic)
	if err != nil {
		return nil, err
	}
	return told{"topic": s.topic}, removed[s.topic].Err
}
