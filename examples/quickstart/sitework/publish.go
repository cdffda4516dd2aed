package sitework

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/stepward/stepward/examples/quickstart/site"
	"github.com/stepward/stepward/workflow"
)

// DeployKey is the name of the customer's key that publish signs with: hexadecimal digits of
// an Ed25519 seed.
const DeployKey = "DEPLOY_KEY"

// publishSite runs inside the sandbox, where the customer's key is a variable of its own process.
// In place of a host on the network it "deploys" to whoever checks the signature.
func publishSite(_ context.Context, files []File) (site.Receipt, error) {
	value := os.Getenv(DeployKey)
	seed, err := hex.DecodeString(value)
	if err != nil || len(seed) != ed25519.SeedSize {
		return site.Receipt{}, workflow.Permanent(errors.New(DeployKey + " is no key"))
	}
	digest := Digest(files)
	return site.Receipt{
		Digest:    digest,
		Signature: ed25519.Sign(ed25519.NewKeyFromSeed(seed), digest),
		Log:       "signed with " + value, // careless, as tools are: it leaves the sandbox without the value
	}, nil
}

// Digest identifies a site.
func Digest(files []File) []byte {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %d\n%s", f.Name, len(f.HTML), f.HTML)
	}
	return h.Sum(nil)
}
