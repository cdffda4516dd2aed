// Package site names the workflow of the quickstart, and the types of its input
// and output. It is all that a program links which only enqueues runs: the body
// and the steps are in package sitework, and only workers link that.
package site

import (
	"time"

	"github.com/stepward/stepward/workflow"
)

// Portfolio makes a static site from a brief.
var Portfolio = workflow.DurableWorkflow[Brief, Site]{Name: "portfolio"}

// A Brief is what the site is made from.
type Brief struct {
	Name     string // of the site, if the Markdown has no "# " heading
	Markdown string // a "# " heading names the site, every "## " heading begins a page
	Dir      string // absolute path of the folder that the site is written to

	// Pause makes every page take longer, so that there is time to watch.
	Pause time.Duration
}

// A Site is what was made.
type Site struct {
	Title    string
	Dir      string
	Files    []string
	Bytes    int
	Links    int // links inside the site, all of which lead somewhere
	External int // links that leave the site; the sandbox has no network to follow them
	Receipt  Receipt
}

// A Receipt says that the site was published, by who has the customer's deploy key.
type Receipt struct {
	Digest    []byte // of all files
	Signature []byte // of the digest, by Ed25519
	Log       string // what the deploy said
}
