package workflow_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/workflow"
)

// paged has ten signals of each name, and tells one in a page.
type paged struct {
	memory
	looks *int
}

func (p paged) Look(_ context.Context, after map[string]int64, _ []int64) (n engine.News, err error) {
	*p.looks++
	for name, id := range after {
		if id < 10 {
			n.Signals, n.More = append(n.Signals, engine.Signal{ID: id + 1, Name: name, Payload: fmt.Append(nil, id+1)}), true
		}
	}
	return n, nil
}

// A turn looks on as long as there are more of the signals that are awaited, and no
// further.
func TestLooksOn(t *testing.T) {
	pong := workflow.NewSignal[int]("pong")
	def := workflow.Define(workflow.DurableWorkflow[int, int]{Name: "pages"}, func(ctx workflow.Context, n int) (sum int, err error) {
		outs, err := workflow.MapFunc(ctx, "page", make([]int, n), func(ctx workflow.Context, _ int) (int, error) { return ping.Receive(ctx, 0) }, workflow.MapOptions{})
		for _, v := range outs {
			sum += v
		}
		if err != nil {
			return 0, err
		}
		v, err := pong.Receive(ctx, 0)
		return 100*sum + v, err
	}, workflow.Options{})
	looks := 0
	end := def.Engine().Run(t.Context(), engine.Turn{
		Run: 1, Epoch: 1, Input: []byte("5"), MaxBytes: 1 << 20, Host: paged{looks: &looks}, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if end.Kind != engine.Completed || string(end.Output) != "1501" || looks != 6 {
		t.Errorf("after %d looks: %+v, %s", looks, end, end.Output)
	}
}
