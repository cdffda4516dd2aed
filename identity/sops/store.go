package sops

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"time"

	"github.com/stepward/stepward/identity/broker"
)

var _ broker.Store = (*Store)(nil)

// maxFile is for many secrets of the largest size, as sops writes them.
const maxFile = 4 << 20

// An Error is a failure of the program. What it wrote is not part of it, since that
// may have what it was given.
type Error struct {
	File   string
	Status int // of its exit; -1: it was killed
}

func (e *Error) Error() string {
	return fmt.Sprintf("sops: %s: the program ended with status %d (%s)", e.File, e.Status, meaning(e.Status))
}

// Unwrap returns [broker.ErrCorrupt] if the file is not what the program had written.
func (e *Error) Unwrap() error {
	switch e.Status {
	case 1, 24, 25, 51, 52:
		return broker.ErrCorrupt
	}
	return nil
}

func meaning(status int) string {
	switch status {
	case 1:
		return "it is no file that sops encrypted"
	case 24, 25, 51, 52:
		return "the file was changed"
	case 128:
		return "it got the file's key from nobody: see Config.Env"
	}
	return "see sops, cmd/sops/codes"
}

// Get returns a value of the tenant's own file.
func (s *Store) Get(ctx context.Context, r broker.Request) (broker.Value, error) {
	if err := ctx.Err(); err != nil {
		return broker.Value{}, err
	}
	t, ok := find(r.Tenant, r.Path)
	if !ok {
		return broker.Value{}, fmt.Errorf("sops: %.80q of tenant %.80q: %w", r.Path, r.Tenant, broker.ErrName)
	}
	sealed, err := s.read(t.file)
	if err != nil {
		return broker.Value{}, err
	}
	version := fmt.Sprintf("%x", sha256.Sum256(sealed))
	if r.Version != "" && r.Version != version {
		return broker.Value{}, fmt.Errorf("sops: %s: it has changed, or never was version %.80q: %w", t.file, r.Version, broker.ErrNoVersion)
	}
	plain, err := s.decrypt(ctx, t, sealed)
	if err != nil {
		return broker.Value{}, err
	}
	if len(t.keys) == 0 {
		return broker.Value{Bytes: plain, Version: version}, nil
	}
	value, err := pick(plain, t.keys)
	clear(plain)
	if err != nil {
		return broker.Value{}, fmt.Errorf("sops: %s: %w", t.file, err)
	}
	return broker.Value{Bytes: value, Version: version}, nil
}

func (s *Store) read(file string) ([]byte, error) {
	f, err := s.root.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("sops: %s: %w", file, broker.ErrNoSecret)
	} else if err != nil {
		return nil, fmt.Errorf("sops: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("sops: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("sops: %s is no file of %d bytes at most: %w", file, maxFile, broker.ErrNoSecret)
	}
	sealed, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("sops: %w", err)
	}
	return sealed, nil
}

// decrypt gives the program the very bytes that were read.
func (s *Store) decrypt(ctx context.Context, t target, sealed []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	output := "json"
	if t.format == "binary" {
		output = "binary"
	}
	cmd := exec.CommandContext(ctx, s.config.Program, "--disable-version-check", "decrypt", "--input-type", t.format, "--output-type", output, "--filename-override", "secret."+t.format)
	cmd.Env = append([]string{}, s.config.Env...)
	cmd.Dir = s.config.Dir
	cmd.Stdin = bytes.NewReader(sealed)
	cmd.WaitDelay = time.Second
	plain, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("sops: %s: %w", t.file, ctx.Err())
	case err == nil:
		return plain, nil
	}
	clear(plain)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, &Error{t.file, exit.ExitCode()}
	}
	return nil, fmt.Errorf("sops: %w", err)
}

// pick returns what is under these keys.
func pick(document []byte, keys []string) ([]byte, error) {
	value := json.RawMessage(document)
	for _, key := range keys {
		var fields map[string]json.RawMessage
		if json.Unmarshal(value, &fields) != nil || fields[key] == nil {
			return nil, fmt.Errorf("there is no %q: %w", key, broker.ErrNoSecret)
		}
		value = fields[key]
	}
	var text string
	if json.Unmarshal(value, &text) == nil && value[0] == '"' {
		return []byte(text), nil
	}
	var out bytes.Buffer
	err := json.Compact(&out, value)
	return out.Bytes(), err
}
