package filestore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
)

// A profile refers to this secret as file://deploy-token.
func Example() {
	home, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(home)

	// The directory and what opens it, secrets.key, are made at first use.
	store, err := filestore.Open(filestore.Config{Dir: filepath.Join(home, "secrets")})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	ctx := context.Background()
	for _, value := range []string{"first", "second"} {
		version, err := store.Put(ctx, "acme", "deploy-token", []byte(value))
		fmt.Println("version", version, err)
	}
	current, err := store.Get(ctx, broker.Request{Tenant: "acme", Path: "deploy-token"})
	fmt.Printf("%s %v\n", current.Bytes, err)
	pinned, err := store.Get(ctx, broker.Request{Tenant: "acme", Path: "deploy-token", Version: "1"})
	fmt.Printf("%s %v\n", pinned.Bytes, err)
	_, err = store.Get(ctx, broker.Request{Tenant: "globex", Path: "deploy-token"})
	fmt.Println(err)
	// Output:
	// version 1 <nil>
	// version 2 <nil>
	// second <nil>
	// first <nil>
	// filestore: "deploy-token" of tenant "globex": no such secret
}
