package local

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
)

// Who waits for the tool runner, or for another one who does, is ended by its context, and
// told that.
func TestCarriedIsCanceled(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, busy := range []bool{false, true} {
		b := New(Config{Program: program})
		if busy {
			b.finding <- struct{}{}
		}
		gone := errors.New("the caller has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		found := make(chan error, 1)
		go func() {
			_, err := b.carried(ctx)
			found <- err
		}()
		if err := testenv.Receive(t, found); !errors.Is(err, gone) {
			t.Errorf("found by another: %v; got %v", busy, err)
		}
	}
}
