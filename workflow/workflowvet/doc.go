// Package workflowvet checks that the bodies of workflows can be replayed.
//
// A body is replayed, on other machines and at other times, and has to decide the
// same way each time. The [Analyzer] finds what comes out differently: clocks,
// chance, goroutines and channels, the order of a map, input and output, locks,
// package-level variables that are written; and a workflow.Context in a function
// that has another one, or in that of a step. What it reports names the durable way.
//
// # What it looks at
//
// Every function with a parameter of type workflow.Context: the body that is passed
// to workflow.Define, functions passed to workflow.Go, MapFunc and Context.Finally, and
// whatever the body is split into. Functions without such a parameter count where a
// body calls them: when one of them, or one that it calls, asks the clock or for
// chance, or does input and output, the call is reported, across packages. Calls
// through interfaces and function values are not followed, and neither is the
// standard library: what matters of it is known by name. Functions given to
// workflow.NewStep and its kin are steps, and free.
//
// A range over a map is fine when its order cannot show: it fills another map by
// the same key, deletes, counts in integers, or collects into a slice that is sorted
// before anything else.
//
// # How to use it
//
//	go install github.com/stepward/stepward/workflow/workflowvet/stepwardvet@latest
//	go vet -vettool=$(which stepwardvet) ./...
//
// or "stepwardvet ./...". The Analyzer fits into any driver of
// golang.org/x/tools/go/analysis.
//
// # How to silence it
//
// A comment on the line, or alone on the line above, with a reason. Without one it
// is reported itself.
//
//	//workflowvet:ignore read once at start, the same on every worker
package workflowvet
