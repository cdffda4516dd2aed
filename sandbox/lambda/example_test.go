package lambda_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	aws_lambda "github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/lambda"
)

// What a sandbox of invocations cannot do is refused before anything is invoked.
func Example() {
	b := lambda.New(lambda.Config{
		Client:   aws_lambda.NewFromConfig(aws.Config{Region: "eu-north-1"}), // of package aws/config, usually
		Function: "stepward-sandbox",
	})
	_, err := b.Dial(context.Background(), "sandbox")
	fmt.Println(errors.Is(err, errors.ErrUnsupported))

	var worker struct{ Backends []sandbox.Backend } // worker.Config
	worker.Backends = []sandbox.Backend{b}
	// Output: true
}
