package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stepward/stepward/examples/quickstart/site"
	"github.com/stepward/stepward/examples/quickstart/sitework"
	"github.com/stepward/stepward/identity"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/worker/bootstrap"
)

const (
	tenant = "quickstart"

	// storeEnv names the store of secrets to the broker, which workers start by themselves.
	storeEnv = "STEPWARD_QUICKSTART_SECRETS"

	// secretName is what the store has the key under, and operatorCommand the argument that makes
	// this program put it there.
	secretName      = "deploy-key"
	operatorCommand = "operator"
)

// broker is for the broker's process: the one that opens the store while workers work. A quickstart of root's
// stays root, as the store is its own; a deployment leaves User alone, and the store to bootstrap.Config.BrokerUser.
var broker = bootstrap.Config{Broker: bootstrap.FileStore(os.Getenv(storeEnv)), User: "root"}

// secrets are a throw-away store with a customer's deploy key. This process has the public half.
type secrets struct {
	dir    string
	public ed25519.PublicKey
}

// openSecrets does what an operator would have done, once, before any worker starts: it has a
// key put into a store, and says by name who may have it. The key is made in a
// process of its own, so that a worker in this one never has had it.
func openSecrets(ctx context.Context, db *database, screen *screen) (_ *secrets, err error) {
	s := &secrets{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "quickstart-secrets-"); err != nil {
		return nil, err
	}
	store := filepath.Join(s.dir, "store")
	if err = os.Setenv(storeEnv, store); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, self, operatorCommand, store).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("make a deploy key: %w", err)
	}
	s.public = out

	profiles, err := identity.New(db.pool, identity.Options{Schema: db.schema, Actor: "quickstart"})
	if err != nil {
		return nil, err
	}
	err = profiles.Put(ctx, identity.Profile{
		Name:  "quickstart",
		Scope: identity.Scope{Tenant: tenant},
		Keys:  map[string]identity.Key{sitework.DeployKey: {Ref: "file://" + secretName}},
	})
	if err != nil {
		return nil, err
	}
	screen.printf("secrets     a deploy key in an encrypted file, made and put there by another process")
	return s, nil
}

func (s *secrets) close() {
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// runOperator is the main of the process that makes the key. It prints the public half.
func runOperator(ctx context.Context, args []string) (err error) {
	if len(args) != 1 {
		return fmt.Errorf("%s wants a folder, got %q", operatorCommand, args)
	}
	store, err := filestore.Open(filestore.Config{Dir: args[0]})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if _, err := store.Put(ctx, tenant, secretName, []byte(hex.EncodeToString(private.Seed()))); err != nil {
		return err
	}
	_, err = os.Stdout.Write(public)
	return err
}

// check is what a host does that a site is deployed to: it compares what was published with what is
// there, and asks whether the customer's key has signed it.
func (s *secrets) check(made site.Site) error {
	var files []sitework.File
	for _, name := range made.Files {
		text, err := os.ReadFile(filepath.Join(made.Dir, name))
		if err != nil {
			return err
		}
		files = append(files, sitework.File{Name: name, HTML: string(text)})
	}
	digest := sitework.Digest(files)
	if !bytes.Equal(digest, made.Receipt.Digest) || !ed25519.Verify(s.public, digest, made.Receipt.Signature) {
		return fmt.Errorf("the receipt of publish is not for the files in %s, or not of the customer's key", made.Dir)
	}
	return nil
}
