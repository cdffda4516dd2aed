package worker

import (
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/rpc"
)

// A sandbox that answers as a broker would, that the worker is revoked, say, has its own attempt fail and nothing else.
func TestSandboxIsNoBroker(t *testing.T) {
	for _, reason := range []string{"worker", "sandbox", "revoked", "changed", "level", "store", "denied"} {
		answer := connect.NewError(connect.CodeInternal, errors.New("no"))
		detail, err := connect.NewErrorDetail(&rpc.Refusal{Reason: reason, Name: "TOKEN"})
		if err != nil {
			t.Fatal(err)
		}
		answer.AddDetail(detail)
		got := (&lent{}).fault(t.Context(), fmt.Errorf("sandbox: secrets: deliver: %w", answer))
		var f *engine.Fault
		if !errors.As(got, &f) || f.Kind != "identity" || f.Permanent || f.Orphan {
			t.Errorf("%s: %+v", reason, got)
		}
	}
}
