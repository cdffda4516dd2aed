package workflow_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/workflowtest"
)

// All offers that come within a day are taken, and the best one wins. The timeout
// is of the calls together; it is kept on whichever worker the run goes on.
func ExampleContext_WithTimeout() {
	auction := workflow.DurableWorkflow[string, int]{Name: "auction"}
	offer := workflow.NewSignal[int]("offer")
	definition := workflow.Define(auction, func(ctx workflow.Context, lot string) (best int, err error) {
		day, cancel := ctx.WithTimeout(24 * time.Hour)
		defer cancel()
		for {
			n, err := offer.Receive(day, 0)
			if errors.Is(err, workflow.ErrTimeout) {
				return best, nil
			}
			if err != nil {
				return 0, err
			}
			best = max(best, n)
		}
	}, workflow.Options{})

	e := workflowtest.New(nil, definition)
	for _, n := range []int{100, 250, 180} {
		if err := workflowtest.Send(e, offer, n); err != nil {
			fmt.Println(err)
		}
	}
	began := e.Now()
	fmt.Println(workflowtest.Execute(e, auction, "a clock"))
	fmt.Println("after", e.Now().Sub(began))
	// Output:
	// 250 <nil>
	// after 24h0m0s
}
