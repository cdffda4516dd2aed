package awssecrets

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/smithy-go"

	"github.com/stepward/stepward/identity/broker"
)

// Config says which secrets are read.
type Config struct {
	// Client is that of the account and region. Required.
	Client *secretsmanager.Client

	// Prefix is what the names of a tenant's secrets begin with. It ends in a slash, and {tenant} is
	// one of its parts; without that all tenants share what it names. Defaults to "{tenant}/".
	Prefix string

	// Timeout is how long a call may take, with its repetitions. Defaults to 10 seconds.
	Timeout time.Duration
}

const timeoutDefault = 10 * time.Second

// A Store reads AWS Secrets Manager. It may be used by several goroutines at a time.
type Store struct{ config Config }

var _ broker.Store = (*Store)(nil)

// New returns a store. It asks AWS for nothing yet.
func New(config Config) (*Store, error) {
	config.Prefix = cmp.Or(config.Prefix, "{tenant}/")
	config.Timeout = cmp.Or(config.Timeout, timeoutDefault)
	parts, ok := strings.CutSuffix(config.Prefix, "/")
	for part := range strings.SplitSeq(parts, "/") {
		ok = ok && (part == "{tenant}" || clean(part))
	}
	switch {
	case config.Client == nil:
		return nil, errors.New("awssecrets: Config.Client is required")
	case !ok:
		return nil, fmt.Errorf("awssecrets: Config.Prefix is %q: want parts of letters, digits and _+=.@-, each with a slash at its end", config.Prefix)
	case config.Timeout < 0:
		return nil, fmt.Errorf("awssecrets: Config.Timeout is %v", config.Timeout)
	}
	return &Store{config}, nil
}

var part = regexp.MustCompile(`^[A-Za-z0-9_+=.@-]{1,256}$`)

// clean reports whether a part of a name has one spelling.
func clean(s string) bool {
	return part.MatchString(s) && s != "." && s != ".." && !strings.HasSuffix(s, ".")
}

// find returns the name of a secret, and the field of its value.
func (c Config) find(tenant, reference string) (name, key string, ok bool) {
	below, key, hasKey := strings.Cut(reference, "#")
	parts := strings.Split(below, "/")
	if hasKey && !part.MatchString(key) || slices.ContainsFunc(parts, func(p string) bool { return !clean(p) }) {
		return "", "", false
	}
	if strings.Contains(c.Prefix, "{tenant}") && !clean(tenant) {
		return "", "", false
	}
	name = strings.ReplaceAll(c.Prefix, "{tenant}", tenant) + below
	return name, key, len(name) <= 512
}

// An Error is what AWS answered. It has no message of AWS's, which may repeat the request.
type Error struct {
	Doing string // what failed, with the name of the secret
	Code  string // AWS's, as "AccessDeniedException"
	Err   error  // one of package broker's; nil: it may pass
}

func (e *Error) Error() string {
	text := "awssecrets: " + e.Doing + ": " + e.Code
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

var versions = regexp.MustCompile(`^[A-Za-z0-9-]{32,64}$`)

// Get returns a value of the tenant's own secret.
func (s *Store) Get(ctx context.Context, r broker.Request) (broker.Value, error) {
	if err := ctx.Err(); err != nil {
		return broker.Value{}, err
	}
	name, key, ok := s.config.find(r.Tenant, r.Path)
	if !ok {
		return broker.Value{}, fmt.Errorf("awssecrets: %.80q of tenant %.80q: %w", r.Path, r.Tenant, broker.ErrName)
	}
	doing := "read " + name
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	in := &secretsmanager.GetSecretValueInput{SecretId: &name}
	if r.Version != "" {
		if !versions.MatchString(r.Version) {
			return broker.Value{}, fmt.Errorf("awssecrets: %s: %.80q is no version: %w", doing, r.Version, broker.ErrNoVersion)
		}
		in.VersionId = &r.Version
	}
	out, err := s.config.Client.GetSecretValue(ctx, in)
	if err != nil {
		return broker.Value{}, s.fail(ctx, doing, name, r.Version, err)
	}
	if out.VersionId == nil {
		return broker.Value{}, &Error{Doing: doing, Code: "an answer without a version"}
	}
	v := broker.Value{Bytes: out.SecretBinary, Version: *out.VersionId}
	if out.SecretString != nil {
		v.Bytes = []byte(*out.SecretString)
	}
	if out.CreatedDate != nil {
		v.Created = *out.CreatedDate
	}
	if key != "" {
		whole := v.Bytes
		v.Bytes, err = pick(whole, key)
		clear(whole)
		if err != nil {
			return broker.Value{}, fmt.Errorf("awssecrets: %s: %w", doing, err)
		}
	}
	return v, nil
}

// fail makes an Error of what the client returned.
func (s *Store) fail(ctx context.Context, doing, name, version string, err error) error {
	answer, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return fmt.Errorf("awssecrets: %s: %w", doing, err)
	}
	e := &Error{Doing: doing, Code: answer.ErrorCode()}
	switch e.Code {
	case "ResourceNotFoundException":
		e.Err = broker.ErrNoSecret
		if s.hasSecret(ctx, name, version) {
			e.Err = broker.ErrNoVersion
		}
	case "InvalidRequestException": // it is marked for deletion
		e.Err = broker.ErrNoSecret
	case "AccessDeniedException", "DecryptionFailure", "InvalidParameterException", "ValidationException":
		e.Err = broker.ErrDenied
	}
	return e
}

// hasSecret reports whether what AWS does not find is a version of a secret, as far as the broker
// may know.
func (s *Store) hasSecret(ctx context.Context, name, version string) bool {
	_, err := s.config.Client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &name})
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		return false
	}
	return err == nil || version != ""
}

// pick returns a field of a JSON object.
func pick(object []byte, key string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil {
		return nil, fmt.Errorf("the value is no JSON object, and the reference names a field of it: %w", broker.ErrNoSecret)
	}
	value, ok := fields[key]
	if !ok {
		return nil, fmt.Errorf("there is no field %q: %w", key, broker.ErrNoSecret)
	}
	var text string
	if value[0] == '"' {
		err := json.Unmarshal(value, &text)
		return []byte(text), err
	}
	var out bytes.Buffer
	err := json.Compact(&out, value)
	return out.Bytes(), err
}
