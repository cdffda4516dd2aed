package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/identity/vault"
)

// What the processes of the broker and of the operator find the store by. Workers pass it
// on, and open nothing.
const (
	dirEnv   = "STEPWARD_EXAMPLE_DIR"   // folder of the broker's own key, and of the file store
	vaultEnv = "STEPWARD_EXAMPLE_VAULT" // MOUNT/PATH of secrets in Vault, in place of files
)

// openStore opens the store. In Vault all is done with VAULT_TOKEN, and so a worker on this
// machine could do it as well: in earnest the broker is a service elsewhere (worker.Config.Broker).
func openStore() (broker.Store, error) {
	place := os.Getenv(vaultEnv)
	if place == "" {
		return filestore.Open(filestore.Config{Dir: filepath.Join(os.Getenv(dirEnv), "store")})
	}
	mount, path, _ := strings.Cut(place, "/")
	return vault.New(vault.Config{
		Address: os.Getenv("VAULT_ADDR"),
		Auth:    vault.Token{Source: func(context.Context) (string, error) { return os.Getenv("VAULT_TOKEN"), nil }},
		Places:  []vault.Place{{Mount: mount, Path: path + "/{tenant}/"}},
	})
}

// configure is called in the broker's process alone.
func configure(context.Context) (broker.Config, error) {
	s, err := openStore()
	return broker.Config{Dir: filepath.Join(os.Getenv(dirEnv), "broker"), Stores: map[string]broker.Store{scheme(): s}}, err
}

func scheme() string {
	if os.Getenv(vaultEnv) != "" {
		return "vault"
	}
	return "file"
}

// reference is what a tenant's profile has in place of a secret.
func reference(tenant, name string) string {
	if place := os.Getenv(vaultEnv); place != "" {
		return "vault://" + place + "/" + tenant + "/" + name + "#value"
	}
	return "file://" + name
}

// A token tells of a secret what an operator's process says of it.
type token struct{ version, print string }

// operatorCommand is the argument that makes this program the operator's. It makes secrets in a
// process of its own, so that the one of the workers never has had one.
const operatorCommand = "operator"

// operate starts the operator's process: "put" makes a token of a tenant, or makes it anew; "delete"
// removes it from Vault.
func operate(ctx context.Context, verb, tenant, name string) (t token, err error) {
	self, err := os.Executable()
	if err != nil {
		return t, err
	}
	out, err := exec.CommandContext(ctx, self, operatorCommand, verb, tenant, name).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return t, fmt.Errorf("%s a token: %w: %s", verb, err, exit.Stderr)
	case err == nil && verb == "put":
		_, err = fmt.Sscan(string(out), &t.version, &t.print)
	}
	return t, err
}

func operatorMain(ctx context.Context, verb, tenant, name string) (err error) {
	s, err := openStore()
	if err != nil {
		return err
	}
	_, path, err := identity.SplitRef(reference(tenant, name))
	if err != nil {
		return err
	}
	value := rand.Text()
	if files, ok := s.(*filestore.Store); ok {
		defer func() { err = errors.Join(err, files.Close()) }()
		_, err = files.Put(ctx, tenant, path, []byte(value))
	} else {
		err = inVault(ctx, verb, path, value)
	}
	if err != nil || verb == "delete" {
		return err
	}
	put, err := s.Get(ctx, broker.Request{Tenant: tenant, Path: path})
	if err == nil {
		_, err = fmt.Println(cmp.Or(put.Version, "-"), fingerprint(value))
	}
	return err
}

// inVault changes what Vault has: a store only reads.
func inVault(ctx context.Context, verb, path, value string) error {
	c, err := api.NewClient(nil) // with VAULT_ADDR and VAULT_TOKEN
	if err != nil {
		return err
	}
	path, _, _ = strings.Cut(path, "#")
	mount, path, _ := strings.Cut(path, "/")
	if verb == "delete" {
		return c.KVv2(mount).DeleteMetadata(ctx, path)
	}
	_, err = c.KVv2(mount).Put(ctx, path, map[string]any{"value": value})
	return err
}

// fingerprint tells tokens apart. It tells nothing of one that nobody can guess.
func fingerprint(value string) string {
	sum := sha256.Sum256([]byte(value))
	return fmt.Sprintf("%.4x", sum)
}
