package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/stepward/stepward/internal/envelope"
)

// Where images have the certificates that their programs trust, by distribution.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// trusting are the variables by which programs learn of a file of such certificates: of OpenSSL and Go, curl, Python's
// requests, git, Node, the AWS tools, pip, Cargo and Deno.
var trusting = []string{
	"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE", "PIP_CERT", "CARGO_HTTP_CAINFO", "DENO_CERT",
}

const maxBundle = 4 << 20

// trust writes down, for what gets a placeholder, what it can trust the broker by, after what the image
// has. It is no secret: who changes the file gets through to nowhere.
func (h *holding) trust() error {
	i := slices.IndexFunc(h.Items, func(i envelope.Item) bool { return i.Store == envelope.Authority })
	if i < 0 {
		return nil
	}
	var all []byte
	for _, path := range bundles {
		b, err := os.ReadFile(path)
		if err == nil && len(b) <= maxBundle {
			all = append(bytes.TrimRight(b, "\n"), '\n')
			break
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("read what the image trusts: %w", err)
		}
	}
	f, err := os.CreateTemp("", "stepward-trust-*.pem")
	if err != nil {
		return fmt.Errorf("write down what to trust: %w", err)
	}
	_, err = f.Write(append(all, h.Items[i].Value...))
	if err = errors.Join(err, f.Chmod(0o444), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write down what to trust: %w", err), os.Remove(f.Name()))
	}
	h.trusted = f.Name()
	return nil
}

// distrust removes what trust has written.
func (h *holding) distrust() {
	if h.trusted != "" {
		_ = os.Remove(h.trusted) // or a program has
	}
}

// trust adds the variables that say what to trust, once.
func (g *grant) trust(h *holding) {
	for _, name := range trusting {
		if h.trusted != "" && !slices.ContainsFunc(*g, func(i envelope.Item) bool { return i.Name == name }) {
			*g = append(*g, envelope.Item{Name: name, Store: envelope.Authority, Value: []byte(h.trusted)})
		}
	}
}
