package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/wrapped"
)

// A Store reads one Vault. It may be used by several goroutines at a time.
type Store struct {
	config  Config
	session session

	mu   sync.Mutex
	made map[making]*made
}

var (
	_ broker.Store   = (*Store)(nil)
	_ broker.Revoker = (*Store)(nil)
)

// New returns a Store. It asks Vault for nothing yet.
func New(config Config) (*Store, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Store{config: config, session: session{config: config}, made: map[making]*made{}}, nil
}

// Get returns what Vault has. Errors are *[Error], or those of package broker.
func (s *Store) Get(ctx context.Context, r broker.Request) (broker.Value, error) {
	if err := ctx.Err(); err != nil {
		return broker.Value{}, err
	}
	t, ok := s.config.find(r.Tenant, r.Path)
	if _, _, named := split(r.Path); !named {
		return broker.Value{}, fmt.Errorf("vault: %.80q of tenant %.80q: %w", r.Path, r.Tenant, broker.ErrName)
	}
	if !ok {
		return broker.Value{}, fmt.Errorf("vault: %.80q is no place of tenant %.80q: %w", r.Path, r.Tenant, broker.ErrDenied)
	}
	if t.dynamic {
		return s.make(ctx, r, t)
	}
	if t.wrap {
		return s.wrap(ctx, r, t)
	}
	return s.read(ctx, r, t)
}

// versions are a number, and after "@" when it was made.
var versions = regexp.MustCompile(`^([1-9][0-9]{0,8})(?:@(.+))?$`)

// read returns a value of a key/value engine.
func (s *Store) read(ctx context.Context, r broker.Request, t target) (broker.Value, error) {
	doing := "read " + t.mount + "/" + t.path
	query := url.Values{}
	var created string
	if r.Version != "" {
		parts := versions.FindStringSubmatch(r.Version)
		if parts == nil {
			return broker.Value{}, fmt.Errorf("vault: %s: %.80q is no version: %w", doing, r.Version, broker.ErrNoVersion)
		}
		query.Set("version", parts[1])
		created = parts[2]
	}
	var secret *api.Secret
	err := s.session.do(ctx, func(ctx context.Context, c *api.Client) (err error) {
		secret, err = c.Logical().ReadWithDataWithContext(ctx, t.mount+"/data/"+t.path, query)
		if err == nil && secret == nil && r.Version != "" {
			// Is there another version?
			var metadata *api.Secret
			metadata, err = c.Logical().ReadWithContext(ctx, t.mount+"/metadata/"+t.path)
			if err == nil && metadata == nil {
				return broker.ErrNoSecret
			}
			return broker.ErrNoVersion // also if that may not be read
		}
		return err
	})
	switch {
	case errors.Is(err, broker.ErrNoSecret), errors.Is(err, broker.ErrNoVersion):
		return broker.Value{}, fmt.Errorf("vault: %s: %w", doing, err)
	case forbidden(err):
		return broker.Value{}, fail(doing, err, broker.ErrDenied)
	case status(err) == http.StatusBadRequest:
		return broker.Value{}, fail(doing, err, broker.ErrDenied)
	case err != nil:
		return broker.Value{}, failed(doing, err)
	case secret == nil:
		return broker.Value{}, fmt.Errorf("vault: %s: %w", doing, broker.ErrNoSecret)
	}
	return value(secret, t.field, created, doing)
}

// value is what a key/value engine answered, unless it is not what was made then.
func value(secret *api.Secret, field, created, doing string) (broker.Value, error) {
	metadata, ok := secret.Data["metadata"].(map[string]any)
	if !ok {
		return broker.Value{}, fmt.Errorf("vault: %s: it is not in a key/value engine of version 2: %w", doing, broker.ErrDenied)
	}
	number, _ := metadata["version"].(json.Number)
	made, _ := metadata["created_time"].(string)
	fields, _ := secret.Data["data"].(map[string]any)
	switch {
	case fields == nil:
		return broker.Value{}, fmt.Errorf("vault: %s: version %s was deleted: %w", doing, number, broker.ErrNoVersion)
	case created != "" && created != made:
		return broker.Value{}, fmt.Errorf("vault: %s: version %s was made at another time: %w", doing, number, broker.ErrNoVersion)
	}
	picked, err := wrapped.Pick(fields, field)
	if err != nil {
		return broker.Value{}, fmt.Errorf("vault: %s: %w: %w", doing, broker.ErrNoSecret, err)
	}
	when, _ := time.Parse(time.RFC3339Nano, made)
	return broker.Value{Bytes: picked, Version: number.String() + "@" + made, Created: when}, nil
}

// failed is fail for what the session may have made an Error of already.
func failed(doing string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return fail(doing, err, nil)
}

// pick returns a field of what was made for who asks, or all of it.
func pick(fields map[string]any, field string) ([]byte, error) {
	if field == "" {
		return wrapped.Text(fields)
	}
	value, err := wrapped.Pick(fields, field)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", broker.ErrNoSecret, err)
	}
	return value, nil
}

func seconds(d time.Duration) string { return strconv.Itoa(max(1, int(d.Seconds()))) + "s" }

func short(s string) string { return strings.Join(strings.Fields(fmt.Sprintf("%.100q", s)), " ") }
