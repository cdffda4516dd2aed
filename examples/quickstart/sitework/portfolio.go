// Package sitework is the work behind package site: the workflow's body and its
// steps. Workers link it.
package sitework

import (
	"fmt"
	"strings"
	"time"

	"github.com/stepward/stepward/examples/quickstart/site"
	"github.com/stepward/stepward/workflow"
)

// A step is a Go function; its mode says where the function runs.
var (
	// plan and pack touch nothing but our own data, so they run inline.
	plan = workflow.NewStep("plan", planSite, workflow.StepOptions{})
	pack = workflow.NewStep("pack", packSite, workflow.StepOptions{})

	// render parses text that somebody else wrote. Its function runs inside a
	// sandbox: no network, no files of the host, nothing of our environment.
	render = workflow.NewStep("render", renderPage, workflow.StepOptions{
		Mode: workflow.Sandboxed, Timeout: time.Minute,
	})

	// check stays on the worker and runs a command in the sandbox.
	check = workflow.NewToolStep("check", checkSite, workflow.StepOptions{
		Mode: workflow.Sandboxed, Timeout: time.Minute,
	})

	// publish needs a secret of the customer. It is there inside the sandbox and
	// nowhere else: the worker carries it sealed.
	publish = workflow.NewStep("publish", publishSite, workflow.StepOptions{
		Mode: workflow.Identity, Secrets: []string{DeployKey}, Timeout: time.Minute,
	})
)

// PortfolioV1 joins the workflow's name with its body and steps.
var PortfolioV1 = workflow.Define(site.Portfolio, portfolio, workflow.Options{
	Version: "1",
	Steps:   []workflow.Declared{plan, render, check, pack, publish},
})

// portfolio is ordinary Go. When a worker dies, the next one runs it from the
// top: steps that are recorded return their results at once, and work goes on
// behind them.
func portfolio(ctx workflow.Context, brief site.Brief) (site.Site, error) {
	p, err := plan.Run(ctx, brief)
	if err != nil {
		return site.Site{}, err
	}
	bodies, err := workflow.Map(ctx, p.Pages, render, workflow.MapOptions{Limit: 2})
	if err != nil {
		return site.Site{}, err
	}
	files := make([]File, len(bodies))
	for i, body := range bodies {
		// The name is the plan's: nothing from a sandbox says where to write.
		files[i] = File{Name: p.Pages[i].File, HTML: body}
	}
	links, err := check.Run(ctx, files)
	if err != nil {
		return site.Site{}, err
	}
	if len(links.Broken) > 0 {
		return site.Site{}, fmt.Errorf("%d of %d links lead nowhere, so nothing was written:\n  %s",
			len(links.Broken), links.Internal, strings.Join(links.Broken, "\n  "))
	}
	written, err := pack.Run(ctx, Parcel{Dir: brief.Dir, Files: files})
	if err != nil {
		return site.Site{}, err
	}
	receipt, err := publish.Run(ctx, files)
	if err != nil {
		return site.Site{}, err
	}
	return site.Site{
		Title: p.Title, Dir: brief.Dir, Files: written.Files, Bytes: written.Bytes,
		Links: links.Internal, External: links.External, Receipt: receipt,
	}, nil
}
