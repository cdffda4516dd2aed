package sealed_test

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/stepward/stepward/worker"
	"github.com/stepward/stepward/workflow"
	"github.com/stepward/stepward/workflow/sealed"
)

// The clients and the workers of a schema get the same ring. The second key is
// that of yesterday: what it encrypted stays readable.
func Example() {
	today, yesterday := make([]byte, 32), make([]byte, 32) // from where your secrets are
	rand.Read(today)
	rand.Read(yesterday)
	ring, err := sealed.New(sealed.Key{ID: "2026-02", Secret: today}, sealed.Key{ID: "2026-01", Secret: yesterday})
	if err != nil {
		panic(err)
	}
	_, _ = workflow.ClientConfig{Codec: ring}, worker.Config{Codec: ring}

	keyID, data, err := ring.Encode(context.Background(), []byte(`{"name":"ada"}`))
	if err != nil {
		panic(err)
	}
	plain, err := ring.Decode(context.Background(), keyID, data)
	fmt.Println(keyID, string(plain), err)
	fmt.Println(sealed.Key{ID: "2026-02", Secret: today}) // a key is not printed
	// Output:
	// 2026-02 {"name":"ada"} <nil>
	// sealed.Key(2026-02)
}
