package redact

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

// A log as programs write it: words, numbers, times, identifiers, paths.
func log(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the request of user failed with status code after timeout connection refused retry attempt cache miss fetched loading module compiled warning deprecated function bytes /usr/lib/node_modules/index.js GET POST https://api.example.com/v1/items {\"level\":\"info\"}")
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, "2026-11-26T02:%02d:%02d.%03dZ ", r.IntN(60), r.IntN(60), r.IntN(1000))
		for range 5 + r.IntN(12) {
			b.WriteString(words[r.IntN(len(words))] + " ")
		}
		fmt.Fprintf(&b, "id=%016x n=%d\n", r.Uint64(), r.IntN(1e6))
	}
	return []byte(b.String()[:size])
}

func fifty(b testing.TB) *Set {
	s := &Set{}
	for i := range 50 {
		add(b, s, fmt.Sprintf("KEY%d", i), fmt.Sprintf("sk_live_%s/+%d", random(16+i), i))
	}
	return s
}

func BenchmarkWriter(b *testing.B) {
	text := log(1 << 20)
	base64 := []byte(strings.Repeat(random(76)+"\n", len(text)/77))
	colours := []byte(strings.ReplaceAll(string(text), " ", "\x1b[0m "))
	dense := []byte(strings.Repeat("\x1b[32mok\x1b[0m  \x1b[1mpackage/17\x1b[0m  1.234s  \x1b[2m(cached)\x1b[0m — done\n", len(text)/70))
	for _, c := range []struct {
		name string
		text []byte
		set  *Set
	}{{"none", text, &Set{}}, {"log", text, fifty(b)}, {"base64", base64, fifty(b)}, {"colours", colours, fifty(b)}, {"dense", dense, fifty(b)}} {
		b.Run(c.name, func(b *testing.B) {
			w := c.set.Writer(io.Discard)
			b.SetBytes(int64(len(c.text)))
			for b.Loop() {
				for rest := c.text; len(rest) > 0; {
					n := min(len(rest), 32<<10)
					if _, err := w.Write(rest[:n]); err != nil {
						b.Fatal(err)
					}
					rest = rest[n:]
				}
			}
		})
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, size := range []int{40, 64 << 10} {
		value := random(size)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				add(b, &Set{}, "KEY", value)
			}
		})
	}
}

// Fifty keys of which every fifth is a private key of many lines.
func BenchmarkHeap(b *testing.B) {
	lines := func() string {
		s := "-----BEGIN PRIVATE KEY-----\n"
		for range 26 {
			s += random(64) + "\n"
		}
		return s + "-----END PRIVATE KEY-----\n"
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var s *Set
	for b.Loop() {
		s = fifty(b)
		for i := range 10 {
			add(b, s, fmt.Sprintf("PEM%d", i), lines())
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
	b.ReportMetric(float64(len(s.table.Load().bytes.heads)), "patterns")
}
