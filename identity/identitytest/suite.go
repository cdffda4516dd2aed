package identitytest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepward/stepward/identity/broker"
)

// TestStore checks a store. open is called once for each of its tests, and may give
// them one store as long as it has been emptied.
func TestStore(t *testing.T, open func(t *testing.T) Fixture) {
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"Current", (*suite).current},
		{"Versions", (*suite).versions},
		{"Missing", (*suite).missing},
		{"OtherTenant", (*suite).otherTenant},
		{"LookAlikes", (*suite).lookAlikes},
		{"Sizes", (*suite).sizes},
		{"Bytes", (*suite).anyBytes},
		{"OwnedByCaller", (*suite).ownedByCaller},
		{"Concurrent", (*suite).concurrent},
		{"Canceled", (*suite).canceled},
		{"Leases", (*suite).leases},
		{"Unreachable", (*suite).unreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, Fixture: open(t)}
			test.run(s)
			s.quiet()
		})
	}
}

// canary is in every value, and so in no error.
const canary = "cAnArY-7f3a"

const tenant = "acme"

type suite struct {
	*testing.T
	Fixture

	mu     sync.Mutex
	errors []error
}

func request(tenant, path string) broker.Request {
	return broker.Request{Path: path, Tenant: tenant, Attempt: "1/2/3", Until: time.Now().Add(time.Hour)}
}

func (s *suite) get(r broker.Request) (broker.Value, error) {
	return s.getContext(s.Context(), r)
}

func (s *suite) getContext(ctx context.Context, r broker.Request) (broker.Value, error) {
	v, err := s.Store.Get(ctx, r)
	if err != nil {
		s.mu.Lock()
		s.errors = append(s.errors, err)
		s.mu.Unlock()
		if len(v.Bytes) > 0 {
			s.Errorf("with error %v there is a value", err)
		}
	}
	return v, err
}

// quiet looks at the errors of the test.
func (s *suite) quiet() {
	for _, err := range s.errors {
		text := fmt.Sprintf("%v %+v %#v", err, err, err)
		for _, secret := range append([]string{canary}, s.Secrets...) {
			if strings.Contains(text, secret) {
				s.Errorf("an error tells a secret: %.40q…", text)
			}
		}
		if len(err.Error()) > 2000 {
			s.Errorf("an error has %d bytes", len(err.Error()))
		}
	}
}

func (s *suite) must(r broker.Request, want string) broker.Value {
	s.Helper()
	v, err := s.get(r)
	if err != nil {
		s.Fatalf("get %q: %v", r.Path, err)
	}
	if string(v.Bytes) != want {
		s.Fatalf("get %q version %q: another value than was put", r.Path, r.Version)
	}
	return v
}

func (s *suite) wants(r broker.Request, want ...error) {
	s.Helper()
	_, err := s.get(r)
	if !slices.ContainsFunc(want, func(target error) bool { return errors.Is(err, target) }) {
		s.Errorf("get %.80q version %q of tenant %q: %v, want %v", r.Path, r.Version, r.Tenant, err, want)
	}
}

func (s *suite) current() {
	path := s.Put(s, tenant, "deploy-token", []byte(canary+" one"))
	first := s.must(request(tenant, path), canary+" one")
	if now := time.Now(); !first.Created.IsZero() && (first.Created.Before(now.Add(-time.Hour)) || first.Created.After(now.Add(time.Hour))) {
		s.Errorf("created %v", first.Created)
	}
	if again := s.Put(s, tenant, "deploy-token", []byte(canary+" two")); again != path {
		s.Errorf("the path of a secret was %q and is %q", path, again)
	}
	second := s.must(request(tenant, path), canary+" two")
	if first.Version == second.Version && first.Version != "" {
		s.Errorf("two values have version %q", first.Version)
	}
}

func (s *suite) versions() {
	if s.Destroy == nil {
		s.current()
		return
	}
	var path string
	var versions []string
	for i := range 4 {
		path = s.Put(s, tenant, "key", fmt.Appendf(nil, "%s %d", canary, i))
		versions = append(versions, s.must(request(tenant, path), fmt.Sprintf("%s %d", canary, i)).Version)
	}
	if len(slices.Compact(slices.Sorted(slices.Values(versions)))) != 4 {
		s.Fatalf("four values have versions %q", versions)
	}
	at := func(i int) broker.Request {
		r := request(tenant, path)
		r.Version = versions[i]
		return r
	}
	for i := range versions {
		if v := s.must(at(i), fmt.Sprintf("%s %d", canary, i)); v.Version != versions[i] {
			s.Errorf("version %q calls itself %q", versions[i], v.Version)
		}
	}
	s.Destroy(s, tenant, "key", versions[1])
	s.wants(at(1), broker.ErrNoVersion)
	s.must(at(0), canary+" 0")
	s.must(request(tenant, path), canary+" 3")
	// What was the current value is followed by none, and not by an older one.
	s.Destroy(s, tenant, "key", versions[3])
	s.wants(request(tenant, path), broker.ErrNoVersion, broker.ErrNoSecret)
	s.must(at(2), canary+" 2")
	s.Put(s, tenant, "key", []byte(canary+" 4"))
	if v := s.must(request(tenant, path), canary+" 4"); slices.Contains(versions, v.Version) {
		s.Errorf("version %q is there a second time", v.Version)
	}
	// Nothing that was made anew is taken for what it was before.
	s.Remove(s, tenant, "key")
	s.Put(s, tenant, "key", []byte(canary+" 5"))
	s.wants(at(0), broker.ErrNoVersion)
	s.wants(at(2), broker.ErrNoVersion)
}

func (s *suite) missing() {
	path := s.Put(s, tenant, "there", []byte(canary))
	gone := s.Put(s, tenant, "gone", []byte(canary))
	s.Remove(s, tenant, "gone")
	s.wants(request(tenant, gone), broker.ErrNoSecret)
	s.wants(request(tenant, strings.Replace(path, "there", "never", 1)), broker.ErrNoSecret)
	for _, version := range []string{"9999", "-1", "0", "01", "latest", "1.0", " 1", "99999999999999999999999999", "../1", "1\x00", "☃"} {
		r := request(tenant, path)
		r.Version = version
		s.wants(r, broker.ErrNoVersion)
	}
}

func (s *suite) otherTenant() {
	theirs := s.Put(s, "other", "secret-plan", []byte(canary))
	s.must(request("other", theirs), canary)
	s.refuses(request(tenant, theirs))
	s.refuses(request("acm", theirs))
	s.refuses(request("othe", theirs))
	s.refuses(request("OTHER", theirs))
	for _, path := range []string{"../other/secret-plan", "other/secret-plan", "/other/secret-plan", "./../other/secret-plan", "x/../../other/secret-plan", "%2e%2e/other/secret-plan", "..%2fother%2fsecret-plan", strings.ReplaceAll("../other/secret-plan", "/", `\`)} {
		s.refuses(request(tenant, path))
	}
	for _, tenant := range []string{"acme/../other", "..", "../other", "acme/..", "*", "acme\x00", "", "other/", "other/."} {
		s.refuses(request(tenant, theirs))
	}
}

func (s *suite) refuses(r broker.Request) {
	s.Helper()
	v, err := s.get(r)
	if bytes.Contains(v.Bytes, []byte(canary)) {
		s.Fatalf("get %q of tenant %q: the secret of another", r.Path, r.Tenant)
	}
	if !errors.Is(err, broker.ErrDenied) && !errors.Is(err, broker.ErrNoSecret) && !errors.Is(err, broker.ErrName) {
		s.Errorf("get %q of tenant %q: %v, want that it is refused", r.Path, r.Tenant, err)
	}
}

// What is not the path itself is not the secret either, or a rule about paths is
// one about nothing.
func (s *suite) lookAlikes() {
	path := s.Put(s, tenant, "token", []byte(canary))
	s.must(request(tenant, path), canary)
	for _, alike := range []string{
		"", "/", ".", "..", "*", "/" + path, path + "/", "./" + path, "x/../" + path, path + "/.", path + "/..", "//" + path,
		path + " ", " " + path, path + "\x00", path + "\n", path + "%00", path + "?version=1", path + "#", path + "*", path + ".",
		strings.Replace(path, "token", "TOKEN", 1),
		strings.Replace(path, "token", "t*", 1),
		strings.Replace(path, "token", "%74oken", 1),
		strings.Replace(path, "token", url.PathEscape("%74oken"), 1),
		strings.Replace(path, "token", "t\u043eken", 1), // Cyrillic
		strings.Replace(path, "token", "\uff54oken", 1), // full width
		strings.Replace(path, "token", "to\u200bken", 1),
		strings.Replace(path, "token", "x/../token", 1),
		strings.Replace(path, "token", "./token", 1),
		strings.Replace(path, "token", "/token", 1),
		strings.Replace(path, "token", `.\token`, 1),
		strings.Repeat("x", 100_000), strings.Repeat("x/", 1000) + "x", "\xff\xfe",
	} {
		s.refuses(request(tenant, alike))
	}
}

func (s *suite) sizes() {
	limit := cmp.Or(s.Limit, broker.MaxValue)
	for _, n := range []int{len(canary), 4 << 10, limit} {
		value := strings.Repeat(canary, n/len(canary)+1)[:n]
		path := s.Put(s, tenant, fmt.Sprintf("size-%d", n), []byte(value))
		s.must(request(tenant, path), value)
	}
}

func (s *suite) anyBytes() {
	values := []string{canary + "\nsecond line\r\n", canary + " ☃ \" \\ $HOME `x` %s {{.}} <&>", `{"json":"` + canary + `"}`, canary + " trailing  ", "\t" + canary}
	if s.Binary {
		values = append(values, canary+"\x00\xff\xfe", "\x00")
	}
	for i, value := range values {
		path := s.Put(s, tenant, fmt.Sprintf("bytes-%d", i), []byte(value))
		s.must(request(tenant, path), value)
	}
}

// The broker overwrites what it was given.
func (s *suite) ownedByCaller() {
	path := s.Put(s, tenant, "own", []byte(canary))
	clear(s.must(request(tenant, path), canary).Bytes)
	s.must(request(tenant, path), canary)
}

func (s *suite) concurrent() {
	var paths []string
	for i := range 4 {
		paths = append(paths, s.Put(s, tenant, fmt.Sprintf("many-%d", i), fmt.Appendf(nil, "%s %d", canary, i)))
	}
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for j := range 8 {
				n := (i + j) % len(paths)
				v, err := s.get(request(tenant, paths[n]))
				if err != nil || string(v.Bytes) != fmt.Sprintf("%s %d", canary, n) {
					s.Errorf("secret %d of many: %v", n, err)
				}
			}
		})
	}
	group.Wait()
}

func (s *suite) canceled() {
	path := s.Put(s, tenant, "late", []byte(canary))
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	if _, err := s.getContext(ctx, request(tenant, path)); !errors.Is(err, context.Canceled) {
		s.Errorf("a canceled call: %v", err)
	}
	s.must(request(tenant, path), canary)
}

func (s *suite) leases() {
	revoker, ok := s.Store.(broker.Revoker)
	if s.Lease == nil {
		path := s.Put(s, tenant, "fixed", []byte(canary))
		if v := s.must(request(tenant, path), canary); v.Lease != "" && !ok {
			s.Error("a lease that nobody can revoke")
		}
		return
	}
	if !ok {
		s.Fatal("the store gives leases and is no broker.Revoker")
	}
	path := s.Lease(s, tenant)
	first, err := s.get(request(tenant, path))
	if err != nil {
		s.Fatal(err)
	}
	r := request(tenant, path)
	r.Attempt = "1/2/4"
	second, err := s.get(r)
	if err != nil {
		s.Fatal(err)
	}
	if first.Lease == "" || first.Lease == second.Lease || bytes.Equal(first.Bytes, second.Bytes) {
		s.Fatalf("leases of two attempts: %q and %q", first.Lease, second.Lease)
	}
	if !s.Live(s, first) || !s.Live(s, second) {
		s.Fatal("what was given out is not good")
	}
	for range 2 { // the second time after a crash that came after the first
		if err := revoker.Revoke(s.Context(), first.Lease); err != nil {
			s.Fatal(err)
		}
		if s.Live(s, first) {
			s.Error("what was revoked is still good")
		}
	}
	if !s.Live(s, second) {
		s.Error("the lease of one attempt ended that of another")
	}
	if err := revoker.Revoke(s.Context(), second.Lease); err != nil {
		s.Fatal(err)
	}
	for _, lease := range []string{"no lease of this store", ""} {
		if err := revoker.Revoke(s.Context(), lease); err == nil {
			s.Errorf("revoked %q", lease)
		}
	}
}

// A failure that passes is told from a secret that is not there.
func (s *suite) unreachable() {
	path := s.Put(s, tenant, "far", []byte(canary))
	s.must(request(tenant, path), canary)
	if s.Break == nil {
		return
	}
	s.Break(s)
	_, err := s.get(request(tenant, path))
	if err == nil {
		s.Fatal("a store that is not there has a value")
	}
	for _, verdict := range []error{broker.ErrNoSecret, broker.ErrNoVersion, broker.ErrName, broker.ErrDenied, broker.ErrCorrupt} {
		if errors.Is(err, verdict) {
			s.Errorf("%v is no failure that passes", err)
		}
	}
}
