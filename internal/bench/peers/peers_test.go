package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stepward/stepward/internal/bench/measure"
	"github.com/stepward/stepward/internal/testenv"
)

// newBench has a database for each system in the server that tests share.
func newBench(t *testing.T, of ...system) *bench {
	t.Helper()
	url := testenv.PostgresURL(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	b := &bench{
		cluster: &measure.Cluster{URL: url, Pool: pool}, systems: of, rounds: 1, scale: 1, idle: time.Millisecond,
		log: slog.New(slog.DiscardHandler), report: newReport(of, "go test"),
	}
	t.Cleanup(func() { b.dropDatabases(context.Background()) })
	if err := b.makeDatabases(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// Each system does runs of every shape that it has, and their results are right.
func TestSystems(t *testing.T) {
	for _, s := range systems {
		t.Run(s.name, func(t *testing.T) {
			b := newBench(t, s)
			err := b.session(t.Context(), s, func(ctx context.Context, p peer) error {
				if err := measure.Parallel(ctx, 20, 20, func(ctx context.Context) error { return execute(ctx, p, chain, 1) }); err != nil {
					return err
				}
				for _, shape := range s.shapes {
					switch shape {
					case letter:
						x, err := park(ctx, p, 20, 0)
						if err != nil {
							return err
						}
						if x.woken <= 0 {
							t.Errorf("woken at %v/s", x.woken)
						}
					default:
						if err := execute(ctx, p, shape, 3); err != nil {
							return err
						}
					}
				}
				l := load{shape: chain, n: 2, callers: 5, backlog: 20}
				x, err := l.time(ctx, p, 1)
				if x.rate <= 0 {
					t.Errorf("drained at %v/s", x.rate)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What is counted is there: no run is free. Others write to the same server, so
// nothing is said about WAL.
func TestCount(t *testing.T) {
	b := newBench(t, systems[0])
	if err := b.session(t.Context(), systems[0], warm); err != nil {
		t.Fatal(err)
	}
	b.idle = 2 * time.Second
	run, _, err := b.count(t.Context(), systems[0], 10, 20, 100)
	if err != nil {
		t.Fatal(err)
	}
	if run.statements <= 0 || run.commits <= 0 {
		t.Errorf("a run costs %+v", run)
	}
}

func TestReport(t *testing.T) {
	r := newReport(systems[:3], "go test")
	for _, v := range []float64{1, 2, 4} {
		r.add("A table", systems[0], "figure", v)
		r.add("A table", systems[1], "figure", 3*v)
	}
	r.add("A table", systems[1], "other", 200)
	var out bytes.Buffer
	if err := r.write(&out); err != nil {
		t.Fatal(err)
	}
	want := `
A table:

| | figure | other |
|---|---:|---:|
| stepward | 2.00 |  |
| dbos | 6.00 (×3.00) | 200 |
`
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("got %s\nwant at its end %s", out.String(), want)
	}
}
