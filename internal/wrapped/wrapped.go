// Package wrapped is about a value that Vault keeps for whoever first brings the token for
// it: what a broker seals in the place of the value, and how a sandbox has the value by that.
//
// It follows what Vault's documentation advises against who is in between: what the token is
// for is looked up and compared with the whole path, and then it is used, once.
package wrapped

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

var (
	// ErrGone reports that the value is not there any more: its time is over, or somebody else
	// has had it. Vault does not say which. The second is an incident.
	ErrGone = errors.New("somebody else has had the wrapped value, or its time is over")

	// ErrValue reports that what is wrapped has no such field, or more than one and the reference names none.
	ErrValue = errors.New("no value")

	// ErrPath reports a token of another thing than it should be, as somebody may have made in its
	// place. It was not used.
	ErrPath = errors.New("the token is of another path than the secret's")
)

// A Value says where it is. The Token is as good as the value.
type Value struct {
	Address   string // of Vault, with https
	Namespace string `json:",omitempty"`
	Roots     string // in PEM: whom Vault's certificate has to be of
	Token     string
	Path      string // of the request that the token is for
	Field     string `json:",omitempty"`
	Version   string // number, "@", and when it was made
	Weak      bool   `json:",omitempty"` // it may be
}

// maxAnswer bounds what Vault answers: as much as package vault reads.
const maxAnswer = 4 << 20

// Encode returns the value's form.
func (v Value) Encode() ([]byte, error) { return json.Marshal(v) }

// Read reads what Encode returned.
func Read(raw []byte) (v Value, err error) {
	if err := json.Unmarshal(raw, &v); err != nil {
		return Value{}, errors.New("it is no wrapped value") // the error of json may quote it
	}
	return v, nil
}

// Endpoint is where Vault is, in lower case.
func Endpoint(address string) (host string, port int, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return "", 0, errors.New("the address of Vault is no URL of https, or has a password in it")
	}
	if u.Port() == "" {
		return strings.ToLower(u.Hostname()), 443, nil
	}
	port, err = strconv.Atoi(u.Port())
	return strings.ToLower(u.Hostname()), port, err
}

// Open has the value by connections that dial makes. After a failure it may be lost: what
// asked for it is not tried twice. No error has the token or the value in its text.
func (v Value) Open(ctx context.Context, dial func(ctx context.Context, host string, port int) (net.Conn, error)) ([]byte, error) {
	host, port, err := Endpoint(v.Address)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(v.Roots)) {
		return nil, errors.New("there are no roots to verify Vault by")
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, host, port) },
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12,
		},
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	c := client{v: v, http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}

	asked, err := json.Marshal(map[string]string{"token": v.Token})
	if err != nil {
		return nil, err
	}
	var about struct {
		Data struct {
			Path string `json:"creation_path"`
		} `json:"data"`
	}
	if err := c.post(ctx, "lookup", "", asked, &about); err != nil {
		return nil, err
	}
	if about.Data.Path != v.Path {
		return nil, ErrPath
	}
	var answer struct {
		Data struct {
			Data     map[string]any `json:"data"`
			Metadata struct {
				Version json.Number `json:"version"`
				Created string      `json:"created_time"`
			} `json:"metadata"`
		} `json:"data"`
	}
	if err := c.post(ctx, "unwrap", v.Token, nil, &answer); err != nil {
		return nil, err
	}
	if got := answer.Data.Metadata.Version.String() + "@" + answer.Data.Metadata.Created; got != v.Version {
		return nil, fmt.Errorf("version %.80q is wrapped, and not %.80q", got, v.Version)
	}
	return Pick(answer.Data.Data, v.Field)
}

// Pick returns a field of a secret, or the one that there is, as [Text] has it.
func Pick(fields map[string]any, field string) ([]byte, error) {
	if field == "" {
		if len(fields) != 1 {
			return nil, fmt.Errorf("%w: there are %d fields, and the reference names none by #", ErrValue, len(fields))
		}
		for field = range fields {
		}
	}
	value, ok := fields[field]
	if !ok {
		return nil, fmt.Errorf("%w: there is no field %.80q", ErrValue, field)
	}
	return Text(value)
}

// Text returns a string as it is, and what is none as JSON.
func Text(value any) ([]byte, error) {
	if s, ok := value.(string); ok {
		return []byte(s), nil
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// gone is how Vault says that there is no such token, of 1.21 and of OpenBao alike.
const gone = "wrapping token is not valid or does not exist"

type client struct {
	v    Value
	http *http.Client
}

// post asks Vault once.
func (c client) post(ctx context.Context, what, token string, body []byte, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.v.Address, "/")+"/v1/sys/wrapping/"+what, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address of Vault is no URL")
	}
	r.Header.Set("X-Vault-Request", "true")
	if c.v.Namespace != "" {
		r.Header.Set("X-Vault-Namespace", c.v.Namespace)
	}
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return fmt.Errorf("ask Vault at %s to %s the value: %w", c.v.Address, what, err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	defer clear(raw)
	if err == nil && len(raw) > maxAnswer {
		err = fmt.Errorf("it has over %d bytes", maxAnswer)
	}
	switch s := answer.StatusCode; {
	case err != nil || s == http.StatusOK:
	case s == http.StatusBadRequest && bytes.Contains(raw, []byte(gone)): // 403 and 404 may be of whatever is on the way
		return ErrGone
	default:
		return fmt.Errorf("ask Vault at %s to %s the value: status %d", c.v.Address, what, s)
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if d.Decode(into) != nil {
			err = errors.New("it is not what Vault says") // the error of json may quote it
		}
	}
	if err != nil {
		return fmt.Errorf("what Vault answers to %s the value: %w", what, err)
	}
	return nil
}
