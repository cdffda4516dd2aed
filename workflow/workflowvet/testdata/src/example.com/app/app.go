// Package app has what a body must not do, and what it may.
package app

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"example.com/util"
	"github.com/stepward/stepward/workflow"
)

var (
	wf    = workflow.DurableWorkflow[int, int]{Name: "wf"}
	fetch = workflow.NewStep("fetch", func(ctx context.Context, n int) (int, error) {
		fmt.Println(time.Now()) // a step may
		return n, nil
	}, workflow.StepOptions{})
	counter int
	cache   = map[string]int{}
	state   struct{ n int }
)

var _ = workflow.Define(wf, body, workflow.Options{})

var _ = workflow.Define(wf, func(ctx workflow.Context, n int) (int, error) {
	time.Sleep(time.Second) // want `body calls time.Sleep: use workflow.Sleep`
	return n, nil
}, workflow.Options{})

func body(ctx workflow.Context, n int) (int, error) {
	now := time.Now()         // want `body calls time.Now: use ctx.Now\(\)`
	_ = time.Since(now)       // want `calls time.Since: use ctx.Now\(\).Sub`
	<-time.After(time.Second) // want `channel receive` `calls time.After`
	clock := time.Now         // want `calls time.Now`
	_ = clock()
	_ = rand.IntN(6)       // want `calls rand.IntN: use ctx.Random`
	_, _ = crand.Read(nil) // want `calls rand.Read: use ctx.Random\(\), or put it into a step`
	_ = ctx.Random().IntN(6)
	_ = rand.New(rand.NewPCG(1, 2)).IntN(6) // the same each time
	_ = ctx.Now().Add(time.Hour).Format(time.RFC3339)

	_ = os.Getenv("HOME") // want `calls os.Getenv: put it into a step`
	_, _ = http.Get("")   // want `calls http.Get`
	_ = http.StatusText(200)
	fmt.Println(n)      // want `calls fmt.Println: use ctx.Logger`
	log.Printf("%d", n) // want `calls log.Printf: use ctx.Logger`
	slog.Info("hello")  // want `calls slog.Info`
	ctx.Logger().Info("hello", slog.Int("n", n))
	fmt.Fprintln(os.Stderr, n) // want `uses os.Stderr`
	var sb strings.Builder
	fmt.Fprintf(&sb, "%d", n)
	_ = fmt.Sprint(n)
	_ = errors.Is(nil, os.ErrNotExist)
	_ = context.Background() // want `calls context.Background: a body has its workflow.Context`

	counter++      // want `writes to package-level variable counter`
	cache["n"] = n // want `writes to package-level variable cache`
	state.n = n    // want `writes to package-level variable state`
	_ = counter

	var mu sync.Mutex
	mu.Lock()         // want `calls \*sync.Mutex.Lock: branches of a body take turns`
	defer mu.Unlock() // want `calls \*sync.Mutex.Unlock`

	_ = util.Deep() // want `calls util.Deep, which calls util.Stamp, which calls time.Now: use ctx.Now`
	_ = util.Pure() + util.Known()
	_ = util.Clock()
	util.Work()               // want `calls util.Work, which starts a goroutine`
	_ = new(util.Thing).Age() // want `calls \*util.Thing.Age, which calls time.Since`
	_ = local()               // want `calls app.local, which calls util.Home, which calls os.Getenv`
	if err := helper(ctx); err != nil {
		return 0, err
	}
	return fetch.Run(ctx, n)
}

func local() string { return util.Home() } // want local:"calls util.Home"

// helper is a part of a body, as it takes its Context.
func helper(ctx workflow.Context) error {
	_ = time.Now() // want `calls time.Now`
	return nil
}

func concurrency(ctx workflow.Context, n int) (int, error) {
	go fetch.Run(ctx, n) // want `starts a goroutine`
	c := make(chan int, 1)
	c <- n   // want `channel send`
	n = <-c  // want `channel receive`
	select { // want `select in a workflow's body`
	case n = <-c:
	default:
	}
	for range c { // want `range over a channel`
	}
	defer func() {
		_ = recover() // want `recover in a workflow's body`
	}()
	defer func() { // want `deferred durable call`
		_, _ = fetch.Run(ctx, n)
	}()
	defer workflow.Sleep(ctx, time.Second) // want `deferred durable call`
	defer func() {                         // want `deferred durable call`
		_ = ctx.Now()
	}()
	defer ctx.Logger().Info("left")
	in, cancel := ctx.WithTimeout(time.Hour)
	defer cancel()
	in.Finally(func(ctx workflow.Context) error {
		_ = time.Now() // want `calls time.Now`
		return nil
	})
	workflow.Go(in, "branch", func(ctx workflow.Context) (int, error) {
		return rand.Int(), nil // want `calls rand.Int`
	})
	return n, nil
}

func order(ctx workflow.Context, m map[string]int) ([]int, error) {
	for k := range m { // want `the order of a map`
		if _, err := fetch.Run(ctx, m[k]); err != nil {
			return nil, err
		}
	}
	var unsorted []string
	for k := range m { // want `the order of a map`
		unsorted = append(unsorted, k)
	}
	var used []string
	for k := range m { // want `the order of a map`
		used = append(used, k)
	}
	fmt.Sprint(used)
	sort.Strings(used)

	var keys []string
	for k := range m {
		if k != "" {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	var values []int
	for _, v := range m {
		values = append(values, v)
	}
	slices.SortFunc(values, func(a, b int) int { return a - b })
	sum, most, double := 0, 0.0, map[string]int{}
	for k, v := range m {
		sum += v
		double[k] = 2 * v
	}
	for range m {
		sum++
	}
	for _, v := range m { // want `the order of a map`
		most += float64(v) / 3
	}
	for k := range m {
		delete(double, k)
	}
	for k := range maps.Keys(m) { // want `the order of a map`
		ctx.Logger().Info(k)
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		ctx.Logger().Info(k)
	}
	again := slices.Collect(maps.Keys(m)) // want `use slices.Sorted`
	sorted := slices.Collect(maps.Keys(m))
	slices.Sort(sorted)
	_, _, _ = unsorted, again, most
	return values, nil
}

func silenced(ctx workflow.Context, n int) {
	_ = time.Now() //workflowvet:ignore for a log line only
	//workflowvet:ignore for a log line only
	_ = time.Now()
	_ = time.Now() // want `calls time.Now`
	/* want `without a reason` */ //workflowvet:ignore
	_ = time.Now()                // want `calls time.Now`
}

// outside is no part of a body.
func outside() { // want outside:"starts a goroutine"
	go func() { _ = time.Now() }()
	counter++
}
