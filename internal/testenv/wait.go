package testenv

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Patience is how long a test waits for what must come. Only a test that fails waits so
// long: a machine that others load needs more time than one would think.
const Patience = 2 * time.Minute

// Eventually polls until f reports true: ever more seldom, as most of f ask Postgres, and
// many tests wait at the same time.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	for wait := 5 * time.Millisecond; !f(); wait = min(wait*3/2, 50*time.Millisecond) {
		select {
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		case <-time.After(wait):
		}
	}
}

// Receive receives from a channel what must come: nothing, of one that is closed.
func Receive[T any](t testing.TB, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(Patience):
		t.Fatal("it has not come")
	}
	return got
}

// Stopper returns what cancels and waits for the end; the test's does so at the latest.
// What does not end fails the test, which says where it hangs.
func Stopper(t testing.TB, what string, cancel func(), done <-chan error) (stop func()) {
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(Patience):
			stacks := make([]byte, 1<<20)
			t.Errorf("%s has not returned\n%s", what, stacks[:runtime.Stack(stacks, true)])
		}
	})
	t.Cleanup(stop)
	return stop
}
