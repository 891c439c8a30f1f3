// A member of a consumer group: member LIBRARY BOOTSTRAP GROUP TOPIC, for franz-go and sarama.
// SIGTERM makes it leave. What it prints is described in ../../python/member.py.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

var out sync.Mutex

func say(kind string, numbers ...int64) {
	out.Lock()
	defer out.Unlock()
	fmt.Print(kind, " ", time.Now().UnixMicro())
	for _, n := range numbers {
		fmt.Print(" ", n)
	}
	fmt.Println()
}

func franz(ctx context.Context, bootstrap []string, group, topic string) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		poll, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		fetches := client.PollRecords(poll, 500)
		cancel()
		var last []*kgo.Record
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) == 0 {
				return
			}
			first, end := p.Records[0], p.Records[len(p.Records)-1]
			if end.Offset-first.Offset != int64(len(p.Records)-1) {
				panic("a gap in what was read")
			}
			say("R", int64(p.Partition), first.Offset, end.Offset+1)
			last = append(last, end)
		})
		if len(last) > 0 && client.CommitRecords(context.WithoutCancel(ctx), last...) == nil {
			for _, r := range last {
				say("C", int64(r.Partition), r.Offset+1)
			}
		}
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	return nil
}

type handler struct{}

func (handler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	var first, next int64 = -1, -1
	flush := func() {
		if first >= 0 {
			// Sarama tells nothing of a commit: only its reads are judged.
			say("R", int64(claim.Partition()), first, next)
			session.Commit()
			first = -1
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case message, ok := <-claim.Messages():
			if !ok {
				flush()
				return nil
			}
			if first >= 0 && message.Offset != next {
				panic("a gap in what was read")
			}
			if first < 0 {
				first = message.Offset
			}
			next = message.Offset + 1
			session.MarkMessage(message, "")
			if next-first >= 500 {
				flush()
			}
		case <-tick.C:
			flush()
		case <-session.Context().Done():
			flush()
			return nil
		}
	}
}

func withSarama(ctx context.Context, bootstrap []string, group, topic string) error {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Group.Session.Timeout = 6 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	consumer, err := sarama.NewConsumerGroup(bootstrap, group, config)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		// Ends at every rebalance, and with an error when the coordinator is away.
		if err := consumer.Consume(ctx, []string{topic}, handler{}); err != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return consumer.Close()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	members := map[string]func(context.Context, []string, string, string) error{"franz-go": franz, "sarama": withSarama}
	if err := members[os.Args[1]](ctx, strings.Split(os.Args[2], ","), os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
