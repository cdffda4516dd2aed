package vault

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/internal/wrapped"
)

// wrapFor is how long Vault keeps a value for the sandbox, which has its envelope within seconds or not at all.
const wrapFor = time.Minute

// wrap has Vault keep a version of a value for the sandbox. Which one, the metadata say.
func (s *Store) wrap(ctx context.Context, r broker.Request, t target) (broker.Value, error) {
	doing := "wrap " + t.mount + "/" + t.path
	var number, created string
	if r.Version != "" {
		parts := versions.FindStringSubmatch(r.Version)
		if parts == nil {
			return broker.Value{}, fmt.Errorf("vault: %s: %.80q is no version: %w", doing, r.Version, broker.ErrNoVersion)
		}
		number, created = parts[1], parts[2]
	}
	path := t.mount + "/data/" + t.path
	w := wrapped.Value{Address: s.config.Address, Namespace: s.config.Namespace, Path: path, Field: t.field}
	var made time.Time
	err := s.session.do(ctx, func(ctx context.Context, c *api.Client) error {
		metadata, err := c.Logical().ReadWithContext(ctx, t.mount+"/metadata/"+t.path)
		if err != nil {
			return err
		}
		if metadata == nil {
			return broker.ErrNoSecret
		}
		if w.Version, err = version(metadata, number, created); err != nil {
			return err
		}
		parts := versions.FindStringSubmatch(w.Version)
		made, _ = time.Parse(time.RFC3339Nano, parts[2])
		wrapping, err := c.CloneWithHeaders()
		if err != nil {
			return err
		}
		wrapping.SetToken(c.Token())
		wrapping.SetWrappingLookupFunc(func(string, string) string { return seconds(wrapFor) })
		return wrapInto(ctx, wrapping, &w, url.Values{"version": {parts[1]}})
	})
	switch {
	case errors.Is(err, broker.ErrNoSecret), errors.Is(err, broker.ErrNoVersion):
		return broker.Value{}, fmt.Errorf("vault: %s: %w", doing, err)
	case errors.Is(err, errPlain), errors.Is(err, errUnverified), errors.Is(err, wrapped.ErrPath): // whatever is on the way does that again
		return broker.Value{}, fmt.Errorf("vault: %s: %w: %w", doing, broker.ErrDenied, err)
	case forbidden(err):
		return broker.Value{}, fail(doing, err, broker.ErrDenied)
	case err != nil:
		return broker.Value{}, failed(doing, err)
	}
	return broker.Value{Wrapped: &w, Version: w.Version, Created: made}, nil
}

var (
	errPlain      = errors.New("the answer is not wrapped")
	errUnverified = errors.New("Config.Transport does not verify the certificate of Vault, so the sandbox could not either")
)

// wrapInto has what is at w.Path wrapped. The sandbox is to trust whom this process trusts.
func wrapInto(ctx context.Context, c *api.Client, w *wrapped.Value, query url.Values) error {
	answer, err := c.Logical().ReadRawWithDataWithContext(ctx, w.Path, query)
	if answer != nil {
		defer answer.Body.Close()
	}
	if err != nil {
		return err
	}
	secret, err := api.ParseSecret(answer.Body)
	if err != nil || secret == nil || secret.WrapInfo == nil {
		return errPlain
	}
	if secret.WrapInfo.CreationPath != w.Path {
		return wrapped.ErrPath
	}
	w.Token, w.Roots = secret.WrapInfo.Token, roots(answer.TLS)
	if w.Roots == "" {
		return errUnverified
	}
	return nil
}

// roots are whom the chains of a connection end with, in PEM; none, if nobody has verified it.
func roots(state *tls.ConnectionState) string {
	if state == nil {
		return ""
	}
	var out []byte
	for _, chain := range state.VerifiedChains {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[len(chain)-1].Raw})...)
	}
	return string(out)
}

// version is the one that there is of a number, or the current one, if it was not made at another time.
func version(metadata *api.Secret, number, created string) (string, error) {
	if number == "" {
		current, _ := metadata.Data["current_version"].(json.Number)
		number = current.String()
	}
	all, _ := metadata.Data["versions"].(map[string]any)
	of, _ := all[number].(map[string]any)
	made, _ := of["created_time"].(string)
	deleted, _ := of["deletion_time"].(string)
	destroyed, _ := of["destroyed"].(bool)
	gone, err := time.Parse(time.RFC3339Nano, deleted)
	switch {
	case number == "0":
		return "", broker.ErrNoSecret
	case made == "":
		return "", fmt.Errorf("there is no version %s: %w", number, broker.ErrNoVersion)
	case destroyed, err == nil && !gone.After(time.Now()):
		return "", fmt.Errorf("version %s was deleted: %w", number, broker.ErrNoVersion)
	case created != "" && created != made:
		return "", fmt.Errorf("version %s was made at another time: %w", number, broker.ErrNoVersion)
	}
	return number + "@" + made, nil
}
