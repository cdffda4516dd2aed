// Command identity deploys for two customers through one fleet of workers. Each
// deploy gets its own customer's token, inside its sandbox and nowhere else: not in the
// workers, not in Postgres. Tokens are rotated and revoked while deploys wait and run, and
// the audit trail tells it all without a value.
//
//	go run ./examples/identity           # tokens in encrypted files, made for the occasion
//	go run ./examples/identity -vault    # in the Vault of VAULT_ADDR and VAULT_TOKEN, below secret/
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

// Release is the input: what is deployed.
type Release struct {
	Review bool          // waits for Approve
	Takes  time.Duration // to upload
}

// Receipt is what a deploy returns.
type Receipt struct {
	Region string
	Token  string // a fingerprint
	Purged bool   // the cache too, which is for customers with a CDN_TOKEN
	Log    string
}

// Deploy is the workflow.
var (
	Deploy  = workflow.DurableWorkflow[Release, Receipt]{Name: "deploy"}
	Approve = workflow.NewSignal[string]("approve")
	Stage   = workflow.Progress[string]{Name: "stage"}
)

// The function of upload runs inside the sandbox. What its profile says it has, is in
// its environment: secrets and settings look the same to it.
var upload = workflow.NewStep("upload", func(ctx context.Context, r Release) (Receipt, error) {
	token := os.Getenv("DEPLOY_TOKEN")
	if err := Stage.SetInStep(ctx, "uploading"); err != nil {
		return Receipt{}, err
	}
	select {
	case <-ctx.Done():
		return Receipt{}, context.Cause(ctx)
	case <-time.After(r.Takes):
	}
	return Receipt{
		Region: os.Getenv("REGION"), Token: fingerprint(token), Purged: os.Getenv("CDN_TOKEN") != "",
		Log: "PUT /site Authorization: Bearer " + token, // as tools do
	}, nil
}, workflow.StepOptions{Mode: workflow.Identity, Secrets: []string{"DEPLOY_TOKEN", "REGION", "CDN_TOKEN?"}})

var deployV1 = workflow.Define(Deploy, func(ctx workflow.Context, r Release) (Receipt, error) {
	if r.Review {
		if _, err := Approve.Receive(ctx, 0); err != nil {
			return Receipt{}, err
		}
	}
	return upload.Run(ctx, r)
}, workflow.Options{Steps: []workflow.Declared{upload}})

func main() {
	initialize()
	inVault := flag.Bool("vault", false, "keep the tokens in the Vault of VAULT_ADDR and VAULT_TOKEN")
	flag.Parse()
	app.Main(func(ctx context.Context, a *app.App) error {
		dir, err := os.MkdirTemp("", "identity-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		place := ""
		if *inVault {
			if os.Getenv("VAULT_ADDR") == "" || os.Getenv("VAULT_TOKEN") == "" {
				return errors.New("-vault needs VAULT_ADDR and VAULT_TOKEN")
			}
			place = "secret/stepward-example-" + strings.ToLower(rand.Text()[:8])
		}
		if err := errors.Join(os.Setenv(dirEnv, dir), os.Setenv(vaultEnv, place)); err != nil {
			return err
		}
		return example(ctx, a)
	})
}

// initialize never returns where the program was started in a sandbox, as the broker, or as the operator.
func initialize() {
	// Who is root for this example stays so: it makes its store itself, where a deployment would have an operator.
	bootstrap.Config{Broker: configure, User: "root"}.Init(deployV1)
	if len(os.Args) == 5 && os.Args[1] == operatorCommand {
		if err := operatorMain(context.Background(), os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}
