// Command stepwardvet reports what the bodies of workflows must not do. See
// package workflowvet.
//
//	stepwardvet ./...
//	go vet -vettool=$(which stepwardvet) ./...
package main

import (
	"golang.org/x/tools/go/analysis/singlechecker"

	"github.com/stepward/stepward/workflow/workflowvet"
)

func main() { singlechecker.Main(workflowvet.Analyzer) }
