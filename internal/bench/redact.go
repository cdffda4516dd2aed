package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/redact"
)

// The bars, with 50 keys: how long 100 MB may take on a core, and what is kept in memory.
const (
	barRedact     = 1000 // ms
	barRedactHeap = 20   // MiB
)

func benchRedact(ctx context.Context, b *bench) error {
	const size = 10 << 20 // of a text that is written over and over
	r := rand.New(rand.NewPCG(1, 2))
	key := func(n int) string {
		raw := make([]byte, n)
		for i := range raw {
			raw[i] = byte(r.Uint32())
		}
		return base64.StdEncoding.EncodeToString(raw)
	}
	var lines, colours, encoded strings.Builder
	for lines.Len() < size {
		fmt.Fprintf(&lines, "2026-11-26T02:%02d:%02dZ INFO request %016x of user %d to https://api.example.com/v1/items took %d ms\n",
			r.IntN(60), r.IntN(60), r.Uint64(), r.IntN(1e6), r.IntN(1e4))
		fmt.Fprintf(&colours, "\x1b[32mok\x1b[0m  \x1b[1mpackage/%d\x1b[0m  %d.%03ds  \x1b[2m(cached)\x1b[0m — done\n", r.IntN(1e6), r.IntN(60), r.IntN(1000))
		fmt.Fprintf(&encoded, "%s\n", key(57))
	}

	texts := []string{lines.String(), colours.String(), encoded.String()}
	before := heap()
	set := &redact.Set{}
	for i := range 50 {
		value := key(24 + i)
		if i%10 == 0 { // one of many lines
			value = "-----BEGIN PRIVATE KEY-----\n"
			for range 26 {
				value += key(48) + "\n"
			}
			value += "-----END PRIVATE KEY-----\n"
		}
		if err := set.Add(fmt.Sprintf("KEY_%d", i), value, false); err != nil {
			return err
		}
	}
	for _, text := range []struct {
		name, text string
		set        *redact.Set
	}{{"log", texts[0], set}, {"coloured", texts[1], set}, {"base64", texts[2], set}, {"log, no keys", texts[0], &redact.Set{}}} {
		w := text.set.Writer(io.Discard)
		content := []byte(text.text)
		var all []time.Duration
		for range b.times(10) {
			if err := ctx.Err(); err != nil {
				return err
			}
			start := time.Now()
			for rest := content; len(rest) > 0; {
				n := min(len(rest), 32<<10)
				if _, err := w.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			all = append(all, time.Since(start)*100e6/time.Duration(len(content)))
		}
		least := measure.Quantile(all, 0)
		b.report.bar("100 MB, "+text.name+", least", least, "ms", barRedact)
		if text.set == set {
			b.report.add(text.name+", most", 100e3/least, "MB/s")
		}
	}
	b.report.bar("heap of 50 keys", max(heap()-before, 0)/(1<<20), "MiB", barRedactHeap)
	runtime.KeepAlive(set)
	runtime.KeepAlive(texts)
	return nil
}

// heap is what is in use after a collection.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
