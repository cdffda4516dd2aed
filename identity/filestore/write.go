package filestore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/stepward/stepward/identity/broker"
)

// A Version is one value that a secret had.
type Version struct {
	Version string
	Created time.Time
	Deleted bool // there is no value any more
}

// Put gives a tenant's secret a new value, of 1 to [broker.MaxValue] bytes, and returns its
// version. Earlier ones stay until they are deleted. A name has letters and digits of ASCII,
// and "_", "-", "." and "/" between them. Tenant "" is the deployment itself. Errors:
// [broker.ErrValue], [broker.ErrName], a *[CorruptError].
func (s *Store) Put(ctx context.Context, tenant, name string, value []byte) (string, error) {
	if len(value) == 0 || len(value) > broker.MaxValue {
		return "", fmt.Errorf("filestore: %.80q of tenant %.80q: %w: want 1 to %d bytes", name, tenant, broker.ErrValue, broker.MaxValue)
	}
	var number string
	err := s.change(ctx, tenant, name, func(now view, x *index) error {
		if x.Tenants == nil {
			x.Tenants = map[string]secrets{}
		}
		if x.Tenants[tenant] == nil {
			x.Tenants[tenant] = secrets{}
		}
		to := x.Tenants[tenant][name]
		if to == nil {
			to = &secret{}
			x.Tenants[tenant][name] = to
		}
		to.Last++
		v := version{Number: to.Last, Created: time.Now().UTC().Truncate(time.Microsecond), File: rand.Text()}
		to.Versions = append(to.Versions, v)
		number = strconv.Itoa(v.Number)
		return s.writeRecord(x.key, now.keys.Store, tenant, name, v, value)
	})
	return number, err
}

func (s *Store) writeRecord(key dek, store, tenant, name string, v version, value []byte) error {
	return s.dir.write(recordDir+"/"+v.File, key.seal(value, store, v.File, tenant, name, strconv.Itoa(v.Number)))
}

// Delete deletes versions of a secret, or without any all of it. What was the newest
// version is followed by none until the next Put; its number is not used again. A
// version that is not there is an error, and then nothing is deleted.
func (s *Store) Delete(ctx context.Context, tenant, name string, versions ...string) error {
	return s.change(ctx, tenant, name, func(_ view, x *index) error {
		from := x.find(tenant, name)
		if from == nil || len(from.Versions) == 0 {
			return fmt.Errorf("filestore: %q of tenant %q: %w", name, tenant, broker.ErrNoSecret)
		}
		if len(versions) == 0 {
			from.Versions = nil
		}
		for _, number := range versions {
			v := from.version(number)
			if v == nil {
				return fmt.Errorf("filestore: %q of tenant %q, version %.80q: %w", name, tenant, number, broker.ErrNoVersion)
			}
			v.File = ""
		}
		return nil
	})
}

// Versions returns what a secret has and had, oldest first.
func (s *Store) Versions(_ context.Context, tenant, name string) ([]Version, error) {
	now, err := s.load()
	if err != nil {
		return nil, err
	}
	found := now.index.find(tenant, name)
	if found == nil || len(found.Versions) == 0 {
		return nil, fmt.Errorf("filestore: %q of tenant %q: %w", name, tenant, broker.ErrNoSecret)
	}
	var out []Version
	for _, v := range found.Versions {
		out = append(out, Version{strconv.Itoa(v.Number), v.Created, v.File == ""})
	}
	return out, nil
}

// Names returns the names of a tenant's secrets in order.
func (s *Store) Names(_ context.Context, tenant string) ([]string, error) {
	now, err := s.load()
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(now.index.Tenants[tenant]))
	return slices.DeleteFunc(names, func(name string) bool { return len(now.index.find(tenant, name).Versions) == 0 }), nil
}

// change makes the next generation of the index.
func (s *Store) change(ctx context.Context, tenant, name string, edit func(view, *index) error) error {
	if err := checkTenant(tenant); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	return s.exclusively(ctx, func() error {
		now, err := s.load()
		if err != nil {
			return err
		}
		x, err := now.index.clone()
		if err != nil {
			return err
		}
		if err := edit(now, x); err != nil {
			return err
		}
		return s.commit(x)
	})
}

// clone returns a copy that is a generation higher.
func (x *index) clone() (*index, error) {
	data, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	next := &index{key: x.key}
	if err := json.Unmarshal(data, next); err != nil {
		return nil, err
	}
	next.Generation++
	return next, nil
}

// commit makes an index the store's. Its records are there. The mark follows: a mark that
// is ahead would be that of a store that was set back.
func (s *Store) commit(x *index) error {
	raw, err := x.sign(x.key)
	if err != nil {
		return err
	}
	if err := s.dir.write(indexFile, raw); err != nil {
		return err
	}
	now, err := s.load()
	if err != nil {
		return err
	}
	if err := s.writeMark(now.index); err != nil {
		return err
	}
	files := now.index.files()
	return s.dir.sweep(recordDir, func(name string) bool { return files[name] })
}
