// load puts one kind of load on a cluster that speaks the Kafka protocol, and prints what it saw as one line of JSON.
//
//	load wait    until -nodes brokers are in the metadata
//	load create  makes -topic, and waits until each of its partitions has a leader
//	load delete  removes -topic
//	load produce as fast as it goes, -records in all from -clients
//	load consume -records from the start of -topic
//	load offer   -rate records a second for -seconds from -clients, whatever becomes of them
//	load first   until the cluster acknowledges a record in every partition of -topic (-create makes it)
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// settings are what the command line says; not every mode needs all of them.
type settings struct {
	brokers    string
	nodes      int
	topic      string
	partitions int
	rf         int
	records    int
	size       int
	linger     time.Duration
	batch      int
	buffer     int
	clients    int
	rate       float64
	seconds    float64
	limit      time.Duration
	read       bool
	windows    bool
	create     bool
	config     string
}

// told is printed as JSON.
type told map[string]any

var modes = map[string]func(context.Context, *settings) (told, error){
	"wait":    wait,
	"create":  create,
	"delete":  remove,
	"produce": produce,
	"consume": consume,
	"offer":   offer,
	"first":   first,
}

func parse() (string, *settings) {
	s := &settings{}
	flags := flag.NewFlagSet("load MODE", flag.ExitOnError)
	flags.StringVar(&s.brokers, "brokers", "127.0.0.1:9092", "bootstrap servers")
	flags.IntVar(&s.nodes, "nodes", 3, "brokers to wait for")
	flags.StringVar(&s.topic, "topic", "load", "topic")
	flags.IntVar(&s.partitions, "partitions", 6, "partitions of the topic")
	flags.IntVar(&s.rf, "rf", 3, "replication factor of a topic that is created")
	flags.IntVar(&s.records, "records", 1_000_000, "records to produce or consume")
	flags.IntVar(&s.size, "size", 1024, "bytes of a value")
	flags.DurationVar(&s.linger, "linger", 5*time.Millisecond, "how long producers collect a batch")
	flags.IntVar(&s.batch, "batch", 128<<10, "bytes of a batch at most")
	flags.IntVar(&s.buffer, "buffer", 32<<20, "bytes that each client of `offer` buffers at most")
	flags.IntVar(&s.clients, "clients", 1, "producing clients")
	flags.Float64Var(&s.rate, "rate", 1000, "records a second of all clients of `offer`")
	flags.Float64Var(&s.seconds, "seconds", 10, "how long `offer` goes on")
	flags.DurationVar(&s.limit, "limit", 10*time.Minute, "give up after this time")
	flags.BoolVar(&s.read, "read", false, "`offer` also reads, and tells when records were seen")
	flags.BoolVar(&s.windows, "windows", false, "`offer` tells each second apart")
	flags.BoolVar(&s.create, "create", false, "`first` creates the topic")
	flags.StringVar(&s.config, "config", "", "settings of a topic that is created: NAME=VALUE,...")
	if len(os.Args) < 2 || modes[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "load: the first word is one of wait, create, delete, produce, consume, offer, first")
		flags.PrintDefaults()
		os.Exit(2)
	}
	_ = flags.Parse(os.Args[2:]) // ends the program on errors
	if flags.NArg() > 0 {
		fail(fmt.Errorf("unknown word %q", flags.Arg(0)))
	}
	if s.size < stampBytes || s.clients < 1 || s.partitions < 1 || s.rate <= 0 {
		fail(fmt.Errorf("-size is at least %d, -clients and -partitions 1, -rate more than 0", stampBytes))
	}
	return os.Args[1], s
}

func (s *settings) seeds() []string { return strings.Split(s.brokers, ",") }

func fail(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}

// cpuSeconds is what this process spent.
func cpuSeconds() float64 {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // cannot fail for the process itself
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func main() {
	mode, s := parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	found, err := modes[mode](ctx, s)
	if err != nil {
		fail(fmt.Errorf("%s: %w", mode, err))
	}
	line, err := json.Marshal(found)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(line))
}
