package awssecrets_test

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/stepward/stepward/identity/awssecrets"
	"github.com/stepward/stepward/identity/broker"
)

// A profile of tenant acme refers to aws://deploy#token, a field of the secret stepward/acme/deploy.
func Example() {
	store, err := awssecrets.New(awssecrets.Config{
		Client: secretsmanager.NewFromConfig(aws.Config{Region: "eu-central-1"}), // as config.LoadDefaultConfig has it
		Prefix: "stepward/{tenant}/",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// A name has one spelling, which leads to the tenant's own.
	_, err = store.Get(context.Background(), broker.Request{Tenant: "acme", Path: "../globex/deploy#token"})
	fmt.Println(err)
	// Output: awssecrets: "../globex/deploy#token" of tenant "acme": no name of a secret, or of a tenant
}
