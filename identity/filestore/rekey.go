package filestore

import (
	"context"
	"crypto/rand"

	"filippo.io/age"
)

// Rekey gives the store a new key and a new identity, and encrypts all records anew. With
// passphrase it is the new one of a store that has one; nil keeps that. Other Stores
// of the directory go on: they read the identity file again, or call their Passphrase. After a crash
// the old or the new identity opens the store, whichever is in the file; Rekey again to be sure.
func (s *Store) Rekey(ctx context.Context, passphrase func() ([]byte, error)) error {
	return s.exclusively(ctx, func() error {
		now, err := s.load()
		if err != nil {
			return err
		}
		was, err := s.locks()
		if err != nil {
			return err
		}
		next, err := s.nextLock(passphrase)
		if err != nil {
			return err
		}
		x, err := now.index.clone()
		if err != nil {
			return err
		}
		x.key = newDEK(now.keys.newest().Generation + 1)
		// The keyring has room for two, and none for what an earlier Rekey left behind.
		if err := s.writeMark(now.index); err != nil {
			return err
		}
		// Both identities are there before something needs the new one.
		if s.config.Passphrase == nil {
			if err := s.writeIdentities(append([]lock{next}, was...)...); err != nil {
				return err
			}
		}
		if err := s.writeKeys(next, now.keys.Store, now.index.key, x.key); err != nil {
			return err
		}
		if err := s.reseal(ctx, now, x); err != nil {
			return err
		}
		if err := s.commit(x); err != nil {
			return err
		}
		// Nothing needs the old key, or the old identity.
		if err := s.writeKeys(next, now.keys.Store, x.key); err != nil {
			return err
		}
		if s.config.Passphrase == nil {
			return s.writeIdentities(next)
		}
		if passphrase != nil {
			s.mu.Lock()
			s.config.Passphrase = passphrase
			s.mu.Unlock()
		}
		return nil
	})
}

// nextLock is what the store is to be opened by.
func (s *Store) nextLock(passphrase func() ([]byte, error)) (lock, error) {
	if s.config.Passphrase == nil {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return lock{}, err
		}
		return identityLock(id)
	}
	if passphrase == nil {
		passphrase = s.config.Passphrase
	}
	return passphraseLock(passphrase)
}

func (s *Store) writeKeys(l lock, store string, newest ...dek) error {
	keys := &keyring{Store: store, Keys: newest}
	wrapped, err := keys.wrap(l)
	if err != nil {
		return err
	}
	if err := s.dir.write(keyFile, wrapped); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.keys = keys
	return nil
}

// reseal writes all records of now anew, for x.
func (s *Store) reseal(ctx context.Context, now view, x *index) error {
	for tenant, secrets := range x.Tenants {
		for name, to := range secrets {
			for i, v := range to.Versions {
				if err := ctx.Err(); err != nil {
					return err
				}
				if v.File == "" {
					continue
				}
				value, err := s.readRecord(now, tenant, name, v)
				if err != nil {
					return err
				}
				to.Versions[i].File = rand.Text()
				err = s.writeRecord(x.key, now.keys.Store, tenant, name, to.Versions[i], value)
				clear(value)
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}
