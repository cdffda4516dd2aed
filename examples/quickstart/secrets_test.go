package main

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"github.com/stepward/stepward/examples/quickstart/site"
	"github.com/stepward/stepward/examples/quickstart/sitework"
)

// A receipt is for the files that are there, and of the customer's key, or it is none.
func TestReceipt(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	made := site.Site{Dir: t.TempDir(), Files: []string{"index.html"}}
	page := filepath.Join(made.Dir, "index.html")
	if err := os.WriteFile(page, []byte("<p>"), 0o600); err != nil {
		t.Fatal(err)
	}
	made.Receipt.Digest = sitework.Digest([]sitework.File{{Name: "index.html", HTML: "<p>"}})
	made.Receipt.Signature = ed25519.Sign(private, made.Receipt.Digest)
	if err := (&secrets{public: public}).check(made); err != nil {
		t.Error(err)
	}
	if err := (&secrets{public: other}).check(made); err == nil {
		t.Error("a receipt of another key is accepted")
	}
	lying := made
	lying.Receipt.Digest = []byte("another")
	if err := (&secrets{public: public}).check(lying); err == nil {
		t.Error("a receipt that names another digest is accepted")
	}
	if err := os.WriteFile(page, []byte("<b>"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&secrets{public: public}).check(made); err == nil {
		t.Error("a receipt for another site is accepted")
	}
}
