// Command function is the function of package words.
package main

import (
	"github.com/stepward/stepward/sandbox/lambda/function"
	"github.com/stepward/stepward/sandbox/lambda/internal/words"
	"github.com/stepward/stepward/worker/bootstrap"
)

func main() {
	bootstrap.Init(words.V1)
	function.Serve()
	panic("this is no AWS Lambda function")
}
