package broker

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepward/stepward/internal/envelope/seal"
)

// rootFile has the secret that all of a broker's own keys come from.
const rootFile = "broker.key"

// A RootError reports that the file of the broker's own key, which all its others come from, cannot be used.
type RootError struct {
	File   string
	Reason string
	Err    error
}

func (e *RootError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("broker: %s: %s: %v", e.File, e.Reason, e.Err)
	}
	return fmt.Sprintf("broker: %s: %s", e.File, e.Reason)
}

func (e *RootError) Unwrap() error { return e.Err }

// root is what a broker has of its own: a key to sign with, one for what it
// stores, and one for fingerprints. Brokers of one directory are the same broker.
type root struct {
	sign   ed25519.PrivateKey
	store  cipher.AEAD
	prints []byte
	mark   string // which key its fingerprints are made with
	nonces []byte
	launch []byte // what sandboxes are given
	proofs seal.ProofKey

	authorities []byte // for what a sandbox trusts, and what stands for values in it
}

// openRoot reads the key of a directory, or makes it.
func openRoot(dir string) (*root, error) {
	path := filepath.Join(dir, rootFile)
	secret, err := readRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeRoot(dir, path); err == nil {
			secret, err = readRoot(path)
		}
	}
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	r := &root{}
	seed := derive(secret, "sign", ed25519.SeedSize)
	r.sign = ed25519.NewKeyFromSeed(seed)
	clear(seed)
	key := derive(secret, "store", 32)
	block, err := aes.NewCipher(key)
	clear(key)
	if err == nil {
		r.store, err = cipher.NewGCMWithRandomNonce(block)
	}
	r.prints, r.nonces, r.authorities, r.launch = derive(secret, "fingerprint", 32), derive(secret, "nonce", 32), derive(secret, "authority", 32), derive(secret, "launch", 32)
	r.mark = hex.EncodeToString(derive(secret, "fingerprint's name", 4)) + "-"
	if err != nil {
		return nil, err
	}
	seed = derive(secret, "proof", 32)
	r.proofs, err = seal.NewProofKey(seed)
	clear(seed)
	return r, err
}

func derive(secret []byte, what string, n int) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, "stepward broker v1 "+what, n)
	if err != nil {
		panic(err) // of a length that does not exist
	}
	return key
}

func readRoot(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 && !lax {
		return nil, &RootError{File: path, Reason: fmt.Sprintf("mode is %v, and others could read it: want -rw-------", mode)}
	}
	if !owned(info) {
		return nil, &RootError{File: path, Reason: "it is another user's, who knows it and could change it"}
	}
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, err
	}
	defer clear(text)
	secret := make([]byte, 32)
	if n, err := hex.Decode(secret, []byte(strings.TrimSpace(string(text)))); err != nil || n != len(secret) {
		return nil, &RootError{File: path, Reason: "it does not hold a key: want 64 hexadecimal digits"}
	}
	return secret, nil
}

// makeRoot makes the file, or leaves that which another broker makes at the same time.
func makeRoot(dir, path string) error {
	into := []string{dir} // directories that get an entry
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		into = append(into, filepath.Dir(d))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &RootError{File: path, Reason: "make its directory", Err: err}
	}
	f, err := os.CreateTemp(dir, rootFile+".*") // 0600
	if err != nil {
		return &RootError{File: path, Reason: "make it", Err: err}
	}
	defer os.Remove(f.Name())
	secret := make([]byte, 32)
	rand.Read(secret)
	_, err = fmt.Fprintf(f, "%x\n", secret)
	clear(secret)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path)
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = nil
		for _, d := range into { // a key that a crash takes back leaves behind what was issued with it
			err = errors.Join(err, syncDir(d))
		}
	}
	if err != nil {
		return &RootError{File: path, Reason: "make it", Err: err}
	}
	return nil
}

// seal closes what goes to the database for this broker alone, tied to what it is about.
func (r *root) seal(plain []byte, about string) []byte {
	return r.store.Seal(nil, nil, plain, []byte(about))
}

func (r *root) open(sealed []byte, about string) ([]byte, error) {
	plain, err := r.store.Open(nil, nil, sealed, []byte(about))
	if err != nil {
		return nil, errors.New("broker: what it has stored was changed, or belongs to a broker with another key")
	}
	return plain, nil
}

// fingerprint tells whether a value is the same again, to this broker alone. It begins with the broker's mark.
func (r *root) fingerprint(tenant, name string, value []byte) string {
	return r.mark + hex.EncodeToString(mac(r.prints, []byte(tenant), []byte(name), value)[:16])
}

// ofVersion is the fingerprint of what the broker has not seen.
func (r *root) ofVersion(tenant string, p pin) string {
	return r.mark + hex.EncodeToString(mac(r.prints, []byte(tenant), []byte(p.Name), []byte("wrapped"), []byte(p.Ref), []byte(p.Version))[:16])
}

// nonce is that of an attempt under one claim of its run: nobody else can know it before Begin.
func (r *root) nonce(c claim) (n [32]byte) {
	var b [32]byte
	binary.BigEndian.PutUint64(b[:], uint64(c.run))
	binary.BigEndian.PutUint64(b[8:], uint64(c.seq))
	binary.BigEndian.PutUint64(b[16:], uint64(c.attempt))
	binary.BigEndian.PutUint64(b[24:], uint64(c.epoch))
	copy(n[:], mac(r.nonces, b[:], []byte(c.sandbox)))
	return n
}

// mac is HMAC-SHA256 over parts, each after its length.
func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return h.Sum(nil)
}
