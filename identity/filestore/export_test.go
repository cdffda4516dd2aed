package filestore

import (
	"bytes"
	"context"
	"os"
	"testing"

	"filippo.io/age"
)

// Passphrases are quick in tests.
func init() { workFactor = 4 }

// Hold calls f as a writer that takes its time.
func (s *Store) Hold(f func()) error {
	return s.exclusively(context.Background(), func() error {
		f()
		return nil
	})
}

// Forge returns a key.age as someone makes it who knows the recipient, and not the identity.
func Forge(t testing.TB, identityFile string) []byte {
	t.Helper()
	data, err := os.ReadFile(identityFile)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := (&keyring{Store: "forged", Keys: []dek{newDEK(1)}}).wrap(lock{
		secret:    []byte("a guess"),
		recipient: ids[0].(*age.HybridIdentity).Recipient(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}
