// Transactions of franz-go against a running cluster: transactions BOOTSTRAP.
// Prints `pass CLIENT: CHECK` or `FAIL CLIENT: CHECK: WHY` a line.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	client     = "franz-go"
	partitions = 3
)

var (
	boot     []string
	prefix   = fmt.Sprintf("go-txn-%d", time.Now().UnixNano())
	failures int
)

func check(name string, work func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := work(ctx); err != nil {
		failures++
		fmt.Printf("FAIL %s: transactions: %s: %v\n", client, name, err)
		return
	}
	fmt.Printf("pass %s: transactions: %s\n", client, name)
}

func create(ctx context.Context, topic string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(boot...))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(ctx, partitions, 3, nil, topic)
	return err
}

func producer(id string, more ...kgo.Opt) (*kgo.Client, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(boot...), kgo.TransactionalID(id), kgo.TransactionTimeout(60 * time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	}
	return kgo.NewClient(append(opts, more...)...)
}

func end(ctx context.Context, cl *kgo.Client, commit kgo.TransactionEndTry) error {
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	return cl.EndTransaction(ctx, commit)
}

// first reads as many records as are expected, and waits whether more come.
func first(ctx context.Context, topic string, isolation kgo.IsolationLevel, count int) ([]string, error) {
	offsets := map[int32]kgo.Offset{}
	for p := int32(0); p < partitions; p++ {
		offsets[p] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(boot...), kgo.FetchIsolationLevel(isolation),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var values []string
	for {
		limit := 30 * time.Second
		if len(values) >= count {
			limit = time.Second
		}
		poll, cancel := context.WithTimeout(ctx, limit)
		fetches := cl.PollFetches(poll)
		quiet := poll.Err() != nil
		cancel()
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
		if quiet {
			slices.Sort(values)
			return values, ctx.Err()
		}
	}
}

func expect(got, want []string, what string) error {
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: %d records, expected %d: %.200v", what, len(got), len(want), got)
	}
	return nil
}

func visibility(ctx context.Context) error {
	topic := prefix + "-visibility"
	if err := create(ctx, topic); err != nil {
		return err
	}
	cl, err := producer(topic)
	if err != nil {
		return err
	}
	defer cl.Close()
	var committed, all []string
	for round := 0; round < 10; round++ {
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
		var values []string
		for i := 0; i < 20; i++ {
			value := fmt.Sprintf("%02d-%02d", round, i)
			values = append(values, value)
			record := &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: []byte(value)}
			cl.Produce(ctx, record, func(_ *kgo.Record, e error) { err = errors.Join(err, e) })
		}
		commit := kgo.TryCommit
		if round%3 == 1 {
			commit = kgo.TryAbort
		} else {
			committed = append(committed, values...)
		}
		all = append(all, values...)
		if e := errors.Join(err, end(ctx, cl, commit)); e != nil {
			return fmt.Errorf("round %d: %w", round, e)
		}
	}
	got, err := first(ctx, topic, kgo.ReadCommitted(), len(committed))
	if err = errors.Join(err, expect(got, committed, "read_committed")); err != nil {
		return err
	}
	got, err = first(ctx, topic, kgo.ReadUncommitted(), len(all))
	return errors.Join(err, expect(got, all, "read_uncommitted"))
}

func consumeTransformProduce(ctx context.Context) error {
	const count = 2000
	source, sink := prefix+"-input", prefix+"-output"
	for _, topic := range []string{source, sink} {
		if err := create(ctx, topic); err != nil {
			return err
		}
	}
	feeder, err := producer(source)
	if err != nil {
		return err
	}
	defer feeder.Close()
	if err := feeder.BeginTransaction(); err != nil {
		return err
	}
	var want []string
	for i := 0; i < count; i++ {
		want = append(want, fmt.Sprintf("<%d>", i))
		record := &kgo.Record{Topic: source, Partition: int32(i % partitions), Value: []byte(fmt.Sprint(i))}
		feeder.Produce(ctx, record, func(_ *kgo.Record, e error) { err = errors.Join(err, e) })
	}
	if err := errors.Join(err, end(ctx, feeder, kgo.TryCommit)); err != nil {
		return err
	}
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(boot...), kgo.TransactionalID(sink),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumerGroup(prefix+"-group"), kgo.ConsumeTopics(source),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RequireStableFetchOffsets(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer session.Close()
	for done, round := 0, 0; done < count; round++ {
		fetches := session.PollRecords(ctx, 100)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("only %d records: %w", done, err)
		}
		if err := session.Begin(); err != nil {
			return err
		}
		produced := kgo.AbortingFirstErrPromise(session.Client())
		fetches.EachRecord(func(r *kgo.Record) {
			value := fmt.Appendf(nil, "<%s>", r.Value)
			session.Produce(ctx, &kgo.Record{Topic: sink, Partition: r.Partition, Value: value}, produced.Promise())
		})
		commit := kgo.TransactionEndTry(produced.Err() == nil && round%4 != 2)
		committed, err := session.End(ctx, commit)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if committed {
			done += fetches.NumRecords()
		}
	}
	got, err := first(ctx, sink, kgo.ReadCommitted(), count)
	return errors.Join(err, expect(got, want, "values"))
}

func fencing(ctx context.Context) error {
	topic := prefix + "-fencing"
	if err := create(ctx, topic); err != nil {
		return err
	}
	write := func(cl *kgo.Client, value string) error {
		return cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr()
	}
	zombie, err := producer(topic)
	if err != nil {
		return err
	}
	defer zombie.Close()
	heir, err := producer(topic)
	if err != nil {
		return err
	}
	defer heir.Close()
	if err := errors.Join(zombie.BeginTransaction(), write(zombie, "of the zombie")); err != nil {
		return err
	}
	if err := errors.Join(heir.BeginTransaction(), write(heir, "of the heir")); err != nil {
		return err
	}
	err = end(ctx, zombie, kgo.TryCommit)
	if !errors.Is(err, kerr.ProducerFenced) && !errors.Is(err, kerr.InvalidProducerEpoch) {
		return fmt.Errorf("the zombie's commit: %v", err)
	}
	if err := end(ctx, heir, kgo.TryCommit); err != nil {
		return err
	}
	got, err := first(ctx, topic, kgo.ReadCommitted(), 1)
	return errors.Join(err, expect(got, []string{"of the heir"}, "read_committed"))
}

func main() {
	boot = strings.Split(os.Args[1], ",")
	check("commit and abort, as read_committed and read_uncommitted see them", visibility)
	check("consume, transform, produce 2000 records: each once", consumeTransformProduce)
	check("a second producer of the same transactional id fences the first", fencing)
	if failures > 0 {
		os.Exit(1)
	}
}
