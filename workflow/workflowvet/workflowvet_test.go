package workflowvet_test

import (
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"

	"github.com/stepward/stepward/workflow/workflowvet"
)

func TestAnalyzer(t *testing.T) {
	analysistest.Run(t, analysistest.TestData(), workflowvet.Analyzer, "example.com/util", "example.com/app", "example.com/branch")
}
