package filestore

import (
	"bytes"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"filippo.io/age"
)

const (
	keyFile    = "key.age"
	maxKeyFile = 64 << 10
)

// A keyring is what key.age has, encrypted. It has two keys while Rekey is at
// work, or after one that was cut off.
type keyring struct {
	Store string `json:"store"` // an id, so that nothing is taken from another store
	Keys  []dek  `json:"keys"`  // the newest last
}

func (k *keyring) newest() dek { return k.Keys[len(k.Keys)-1] }

func (k *keyring) find(generation int) (dek, bool) {
	if k == nil {
		return dek{}, false
	}
	i := slices.IndexFunc(k.Keys, func(d dek) bool { return d.Generation == generation })
	if i < 0 {
		return dek{}, false
	}
	return k.Keys[i], true
}

// A lock is one thing that opens and closes key.age.
type lock struct {
	secret    []byte
	identity  age.Identity
	recipient age.Recipient
}

// wrap encrypts the keyring. Anybody who knows a recipient could encrypt one for
// it: the MAC is by who can also decrypt.
func (k *keyring) wrap(l lock) ([]byte, error) {
	body, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, l.recipient)
	if err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	sum := hex.EncodeToString(mac(sub(l.secret, "keyring"), body))
	if _, err := w.Write(append([]byte(sum+"\n"), body...)); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// unwrap needs one of the locks to fit.
func unwrap(path string, wrapped []byte, locks []lock) (*keyring, error) {
	for _, l := range locks {
		r, err := age.Decrypt(bytes.NewReader(wrapped), l.identity)
		if err != nil {
			if _, no := errors.AsType[*age.NoIdentityMatchError](err); no {
				continue
			}
			return nil, &CorruptError{path, "was changed or cut"}
		}
		plain, err := io.ReadAll(r)
		if err != nil {
			return nil, &CorruptError{path, "was changed or cut"}
		}
		sum, body, _ := bytes.Cut(plain, []byte("\n"))
		want := hex.EncodeToString(mac(sub(l.secret, "keyring"), body))
		var k keyring
		if !hmac.Equal(sum, []byte(want)) || json.Unmarshal(body, &k) != nil || len(k.Keys) == 0 {
			return nil, &CorruptError{path, "was written by someone else"}
		}
		return &k, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrKey, path)
}

// unlock reads key.age.
func (s *Store) unlock() (*keyring, error) {
	wrapped, err := s.dir.read(keyFile, maxKeyFile)
	if err != nil {
		return nil, err
	}
	locks, err := s.locks()
	if errors.Is(err, fs.ErrNotExist) && s.config.Passphrase == nil {
		return nil, fmt.Errorf("%w: the identity of %s is gone (%w): put that file back, as nothing else opens the store, or say where it is (Config.Identity)", ErrKey, s.config.Dir, err)
	}
	if err != nil {
		return nil, err
	}
	return unwrap(s.dir.join(keyFile), wrapped, locks)
}

// locks are what the store may be wrapped to; what is written is wrapped to the first.
func (s *Store) locks() ([]lock, error) {
	if s.config.Passphrase != nil {
		l, err := passphraseLock(s.config.Passphrase)
		return []lock{l}, err
	}
	data, err := s.identities.read(s.identityName(), maxKeyFile)
	if err != nil {
		return nil, err
	}
	ids, err := age.ParseIdentities(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("filestore: %s is not a file of age identities", s.config.Identity) // the cause may quote it
	}
	var locks []lock
	for _, id := range ids {
		l, err := identityLock(id)
		if err != nil {
			return nil, fmt.Errorf("filestore: %s: %w", s.config.Identity, err)
		}
		locks = append(locks, l)
	}
	return locks, nil
}

func (s *Store) identityName() string { return filepath.Base(s.config.Identity) }

// newLocks is locks for a store that is being made, which may have no identity yet.
func (s *Store) newLocks() ([]lock, error) {
	locks, err := s.locks()
	if s.config.Passphrase != nil || !errors.Is(err, fs.ErrNotExist) {
		return locks, err
	}
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, err
	}
	l, err := identityLock(id)
	if err != nil {
		return nil, err
	}
	return []lock{l}, s.writeIdentities(l)
}

// writeIdentities has no comment that names a recipient: who does not know it
// cannot even encrypt to it.
func (s *Store) writeIdentities(locks ...lock) error {
	data := []byte("# Opens the secrets in " + s.config.Dir + ": keep it secret, and keep it.\n")
	for _, l := range locks {
		data = append(append(data, l.secret...), '\n')
	}
	return s.identities.write(s.identityName(), data)
}

func identityLock(id age.Identity) (lock, error) {
	switch id := id.(type) {
	case *age.HybridIdentity:
		return lock{[]byte(id.String()), id, id.Recipient()}, nil
	case *age.X25519Identity:
		return lock{[]byte(id.String()), id, id.Recipient()}, nil
	}
	return lock{}, errors.New("an identity is of a kind that is not supported")
}

// workFactor is age's own default, about a second. Tests lower it.
var workFactor = 18

func passphraseLock(passphrase func() ([]byte, error)) (lock, error) {
	secret, err := passphrase()
	if err != nil {
		return lock{}, fmt.Errorf("filestore: passphrase: %w", err)
	}
	recipient, err := age.NewScryptRecipient(string(secret))
	if err != nil {
		return lock{}, fmt.Errorf("%w: it is empty", ErrKey)
	}
	recipient.SetWorkFactor(workFactor)
	identity, err := age.NewScryptIdentity(string(secret))
	return lock{secret, identity, recipient}, err
}
