package main

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	longestUs = int64(10 * time.Minute / time.Microsecond)
	// Of the whole, and of a second among hundreds.
	digits, windowDigits = 3, 2
)

// seen is what became of the offered records.
type seen struct {
	began     time.Time
	ended     time.Time // of the last client to make records
	lock      sync.Mutex
	offers    int
	refused   int
	errors    map[string]int
	acked     *hdrhistogram.Histogram
	readAfter *hdrhistogram.Histogram
	windows   []*window
}

// window is one second, by the time at which a record was made.
type window struct {
	offers  int
	refused int
	failed  int
	acked   *hdrhistogram.Histogram
}

func newSeen() *seen {
	return &seen{
		errors:    map[string]int{},
		acked:     hdrhistogram.New(1, longestUs, digits),
		readAfter: hdrhistogram.New(1, longestUs, digits),
	}
}

// at is the window of a moment; the lock is held.
func (s *seen) at(made time.Time) *window {
	number := int(made.Sub(s.began) / time.Second)
	for len(s.windows) <= number {
		s.windows = append(s.windows, &window{acked: hdrhistogram.New(1, longestUs, windowDigits)})
	}
	return s.windows[number]
}

func (s *seen) offered(count, refused int) {
	s.lock.Lock()
	defer s.lock.Unlock()
	now := s.at(time.Now())
	now.offers += count
	now.refused += refused
	s.offers += count
	s.refused += refused
}

func (s *seen) ends(at time.Time) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.ended = at
}

func (s *seen) settled(made time.Time, err error) {
	took := min(time.Since(made).Microseconds(), longestUs)
	s.lock.Lock()
	defer s.lock.Unlock()
	if err != nil {
		s.at(made).failed++
		s.errors[err.Error()]++
		return
	}
	_ = s.at(made).acked.RecordValue(took) // cannot fail within the bounds
	_ = s.acked.RecordValue(took)
}

func (s *seen) read(after time.Duration) {
	s.lock.Lock()
	defer s.lock.Unlock()
	_ = s.readAfter.RecordValue(min(max(after.Microseconds(), 0), longestUs))
}

// awaitReader waits until the reader has all that was acknowledged.
func (s *seen) awaitReader(patience time.Duration) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(pollEvery) {
		s.lock.Lock()
		done := s.readAfter.TotalCount() >= s.acked.TotalCount()
		s.lock.Unlock()
		if done {
			return
		}
	}
}

func (s *seen) tell(settings *settings) told {
	s.lock.Lock()
	defer s.lock.Unlock()
	found := told{
		"began":   seconds(s.began),
		"ended":   seconds(s.ended),
		"offered": s.offers,
		"refused": s.refused,
		"errors":  s.errors,
		"acked":   s.acked.TotalCount(),
		"ack_ms":  latencies(s.acked),
	}
	if settings.read {
		found["read"] = s.readAfter.TotalCount()
		found["read_ms"] = latencies(s.readAfter)
	}
	if settings.windows {
		windows := []told{}
		for _, w := range s.windows {
			windows = append(windows, told{
				"offered": w.offers,
				"refused": w.refused,
				"failed":  w.failed,
				"acked":   w.acked.TotalCount(),
				"ack_ms":  latencies(w.acked),
			})
		}
		found["windows"] = windows
	}
	return found
}

func latencies(of *hdrhistogram.Histogram) map[string]float64 {
	ms := func(us int64) float64 { return float64(us) / 1000 }
	return map[string]float64{
		"p50":  ms(of.ValueAtQuantile(50)),
		"p99":  ms(of.ValueAtQuantile(99)),
		"p999": ms(of.ValueAtQuantile(99.9)),
		"max":  ms(of.Max()),
	}
}
