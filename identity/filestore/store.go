package filestore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/stepward/stepward/identity/broker"
)

const (
	recordDir = "records"
	lockFile  = "lock"
	maxRecord = broker.MaxValue + 64
)

// Config says where a store is and what opens it.
type Config struct {
	// Dir is the store. It is made if it is not there, with mode 0700. Required.
	Dir string

	// Identity is a file with an age identity, which opens the store. It is made with
	// the store if it is not there, with mode 0600, and must be in an existing
	// directory. Without it the secrets are lost. Defaults to Dir with ".key" at its end.
	Identity string

	// Passphrase opens the store in place of Identity. It is called when the store is opened,
	// and again after another process changed its key, and returns a slice of its own.
	// A function that reads a file descriptor keeps what it has read.
	Passphrase func() ([]byte, error)

	// Mark is a file that tells whether Dir was set back. Defaults to Dir with ".mark" at its end.
	Mark string

	// Restored accepts that Dir was set back, as after a backup was restored, or that
	// the mark is lost: what Dir has is from now on the newest.
	Restored bool
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("filestore: Config.Dir is required")
	}
	var err error
	for _, path := range []struct {
		is       *string
		fallback string
	}{{&c.Dir, ""}, {&c.Identity, ".key"}, {&c.Mark, ".mark"}} {
		if *path.is, err = filepath.Abs(cmp.Or(*path.is, c.Dir+path.fallback)); err != nil {
			return c, fmt.Errorf("filestore: %w", err)
		}
	}
	return c, nil
}

// A Store is a directory of secrets that is open. It may be used by several
// goroutines, and the directory by several Stores, at a time.
type Store struct {
	config                 Config
	dir, identities, marks folder
	writing                chan struct{} // of one place: who writes

	mu   sync.Mutex
	now  view
	seen mark
	shut bool
}

// A view is an index as it was read, with the keys of then.
type view struct {
	raw   []byte
	index *index
	keys  *keyring
}

var _ broker.Store = (*Store)(nil)

// Open opens a store, and makes it if there is none.
func Open(config Config) (_ *Store, err error) {
	config, err = config.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("filestore: %w", err)
	}
	s := &Store{config: config, writing: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	for _, f := range []struct {
		is       *folder
		path, of string
	}{{&s.dir, config.Dir, "the store"}, {&s.identities, filepath.Dir(config.Identity), "its identity"}, {&s.marks, filepath.Dir(config.Mark), "its mark"}} {
		if *f.is, err = openFolder(f.path, f.of); err != nil {
			if info, no := os.Stat(f.path); no == nil && f.is == &s.dir {
				err = cmp.Or(private(f.path, info, 0o700), err)
			}
			return nil, err
		}
	}
	info, err := s.dir.root.Stat(".")
	if err != nil {
		return nil, err
	}
	if err := private(config.Dir, info, 0o700); err != nil {
		return nil, err
	}
	return s, s.exclusively(context.Background(), s.begin)
}

// Close ends the use of the store. Calls that come later fail with [os.ErrClosed].
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = true
	s.now = view{}
	for _, f := range []folder{s.dir, s.identities, s.marks} {
		if f.root != nil {
			f.root.Close()
		}
	}
	return nil
}

// begin reads what there is for the first time, or makes it.
func (s *Store) begin() error {
	keys, err := s.unlock()
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := s.dir.root.Stat(keyFile); errors.Is(gone, fs.ErrNotExist) {
			return s.create()
		}
	}
	if err != nil {
		return err
	}
	s.now.keys = keys
	known, err := s.readMark(keys)
	if s.config.Restored {
		known, err = mark{}, nil
	}
	if err != nil {
		return err
	}
	s.seen = known
	v, err := s.load()
	if err != nil {
		return err
	}
	if known.generation == 0 && v.index.Generation > 1 && !s.config.Restored {
		return &CorruptError{s.config.Mark, "is missing: the store may have been set back (Config.Restored accepts what there is)"}
	}
	if known != v.index.mark() {
		return s.writeMark(v.index)
	}
	return nil
}

// create makes a store; its key comes last, as one without a key can be made again.
func (s *Store) create() error {
	records, err := s.dir.list(recordDir)
	if err != nil {
		return err
	}
	if len(records) > 0 {
		return &CorruptError{s.dir.join(keyFile), "is missing"}
	}
	if _, err := s.marks.root.Stat(filepath.Base(s.config.Mark)); err == nil && !s.config.Restored {
		return &CorruptError{s.config.Dir, "is empty, and was not: " + s.config.Mark + " tells"}
	}
	locks, err := s.newLocks()
	if err != nil {
		return err
	}
	if err := s.dir.root.Mkdir(recordDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return s.dir.fail("mkdir", recordDir, err)
	}
	keys := &keyring{Store: rand.Text(), Keys: []dek{newDEK(1)}}
	raw, err := (&index{Generation: 1}).sign(keys.newest())
	if err != nil {
		return err
	}
	wrapped, err := keys.wrap(locks[0])
	if err != nil {
		return err
	}
	if err := errors.Join(s.dir.write(indexFile, raw), s.dir.write(keyFile, wrapped)); err != nil {
		return err
	}
	s.now.keys = keys
	v, err := s.load()
	if err != nil {
		return err
	}
	return s.writeMark(v.index)
}

// load returns what the store has now.
func (s *Store) load() (view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return view{}, fmt.Errorf("filestore: %s: %w", s.config.Dir, os.ErrClosed)
	}
	path := s.dir.join(indexFile)
	raw, err := s.dir.read(indexFile, maxIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return view{}, &CorruptError{path, "is missing"}
	} else if err != nil {
		return view{}, err
	}
	if s.now.index != nil && bytes.Equal(raw, s.now.raw) {
		return s.now, nil
	}
	v := view{raw: raw, keys: s.now.keys}
	v.index, err = parseIndex(path, raw, v.keys)
	if errors.Is(err, errUnknownKey) {
		if v.keys, err = s.unlock(); err != nil {
			return view{}, err
		}
		v.index, err = parseIndex(path, raw, v.keys)
	}
	if errors.Is(err, errUnknownKey) {
		return view{}, &CorruptError{path, "is under a key that " + keyFile + " does not have"}
	} else if err != nil {
		return view{}, err
	}
	if err := s.seen.admits(path, v.index); err != nil {
		return view{}, err
	}
	s.now, s.seen = v, v.index.mark()
	return v, nil
}

// Get returns the value of the tenant's own secret of the name r.Path: that of a version,
// or of the newest. If the newest was deleted there is no current one. Tenant ""
// is the deployment itself.
func (s *Store) Get(ctx context.Context, r broker.Request) (broker.Value, error) {
	if err := ctx.Err(); err != nil {
		return broker.Value{}, err
	}
	if err := errors.Join(checkTenant(r.Tenant), checkName(r.Path)); err != nil {
		return broker.Value{}, err
	}
	v, err := s.get(r)
	if errors.Is(err, broker.ErrCorrupt) || errors.Is(err, ErrKey) {
		// A change by another process may have been under way.
		again := s.exclusively(ctx, func() error {
			v, err = s.get(r)
			return nil
		})
		if again != nil {
			return broker.Value{}, again
		}
	}
	return v, err
}

func (s *Store) get(r broker.Request) (broker.Value, error) {
	now, err := s.load()
	if err != nil {
		return broker.Value{}, err
	}
	found := now.index.find(r.Tenant, r.Path)
	if len(now.index.Tenants) == 0 {
		return broker.Value{}, fmt.Errorf("filestore: %q of tenant %q: %w: %w: nothing was ever put into %s", r.Path, r.Tenant, broker.ErrNoSecret, broker.ErrEmpty, s.config.Dir)
	}
	if found == nil || len(found.Versions) == 0 {
		return broker.Value{}, fmt.Errorf("filestore: %q of tenant %q: %w", r.Path, r.Tenant, broker.ErrNoSecret)
	}
	v := found.version(cmp.Or(r.Version, strconv.Itoa(found.Last)))
	switch gone := v == nil || v.File == ""; {
	case gone && r.Version == "":
		return broker.Value{}, fmt.Errorf("filestore: %q of tenant %q, whose newest version was deleted: %w", r.Path, r.Tenant, broker.ErrNoSecret)
	case gone:
		return broker.Value{}, fmt.Errorf("filestore: %q of tenant %q, version %.80q: %w", r.Path, r.Tenant, r.Version, broker.ErrNoVersion)
	}
	value, err := s.readRecord(now, r.Tenant, r.Path, *v)
	if err != nil {
		return broker.Value{}, err
	}
	return broker.Value{Bytes: value, Version: strconv.Itoa(v.Number), Created: v.Created}, nil
}

func (f *secret) version(number string) *version {
	for i, v := range f.Versions {
		if strconv.Itoa(v.Number) == number {
			return &f.Versions[i]
		}
	}
	return nil
}

func (s *Store) readRecord(now view, tenant, name string, v version) ([]byte, error) {
	file := recordDir + "/" + v.File
	record, err := s.dir.read(file, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptError{s.dir.join(file), "is missing"}
	} else if err != nil {
		return nil, err
	}
	value, err := now.index.key.open(record, now.keys.Store, v.File, tenant, name, strconv.Itoa(v.Number))
	if err != nil {
		return nil, &CorruptError{s.dir.join(file), "was changed, cut, or put in another's place"}
	}
	return value, nil
}

// exclusively calls f while no other Store writes, here or elsewhere.
func (s *Store) exclusively(ctx context.Context, f func() error) error {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	file, err := s.dir.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return s.dir.fail("open", lockFile, err)
	}
	defer file.Close()
	for {
		ok, err := tryLock(file)
		if err != nil {
			return err
		}
		if ok {
			return f()
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("filestore: another process writes to %s: %w", s.config.Dir, ctx.Err())
		}
	}
}
