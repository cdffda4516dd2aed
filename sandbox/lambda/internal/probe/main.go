// Command probe is a function of package lambda with the commands and guest steps
// of the conformance suite.
package main

import (
	"github.com/stepward/stepward/sandbox/lambda/function"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

func main() {
	sandboxtest.Init()
	function.Serve()
	panic("this is no AWS Lambda function")
}
