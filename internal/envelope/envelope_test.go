package envelope_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/envelope"
	"github.com/stepward/stepward/internal/envelope/open"
	"github.com/stepward/stepward/internal/envelope/seal"
)

var facts = envelope.Facts{
	Tenant: "acme", Workflow: "site", Version: "1", Step: "publish#1", Run: 7, Seq: 2, Attempt: 1, Epoch: 3,
	Sandbox: "sb-1", Nonce: [32]byte{1}, Policy: [32]byte{2},
}

var head = envelope.Head{ID: envelope.ID{9}, Facts: facts, Terms: envelope.Terms{Freeze: 15 * time.Second, Kill: 90 * time.Second}, Epoch: 4}

func items() []envelope.Item {
	return []envelope.Item{
		{Name: "DEPLOY_TOKEN", Store: "file", Version: "3", Commands: []string{"deploy", "/usr/bin/git"}, Value: []byte("canary-1")},
		{Name: "LLM_KEY", Store: "vault", Version: "12", Guest: true, Strict: true, Value: []byte("canary-2")},
		{Name: "CERT", Store: "file", File: true, Value: append(bytes.Repeat([]byte{0}, 300), 1)},
	}
}

var brokerPublic, brokerPrivate, _ = ed25519.GenerateKey(nil)

func newKey(t *testing.T, f envelope.Facts) *open.Key {
	t.Helper()
	k, err := open.NewKey(f, brokerPublic, envelope.Witness{})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sealed(t *testing.T, hello []byte, h envelope.Head, list []envelope.Item) (raw, renewal []byte) {
	t.Helper()
	s, err := seal.New(brokerPrivate, hello, h)
	if err != nil {
		t.Fatal(err)
	}
	raw, err = s.Seal(list)
	if err != nil {
		t.Fatal(err)
	}
	return raw, s.RenewalKey()
}

func TestOpens(t *testing.T) {
	k := newKey(t, facts)
	raw, renewal := sealed(t, k.Hello(), head, items())
	for _, secret := range items() {
		if bytes.Contains(raw, secret.Value) {
			t.Errorf("%s can be read on the way", secret.Name)
		}
	}
	o, err := k.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(o.Head, head) || !bytes.Equal(o.RenewalKey, renewal) || len(renewal) != 32 {
		t.Errorf("opened %+v", o.Head)
	}
	if !reflect.DeepEqual(o.Items, items()) {
		t.Errorf("items came as others")
	}
	if s := fmt.Sprintf("%v %+v %#v %s", o, o.Items, o.Items[0], o.Items); strings.Contains(s, "canary") {
		t.Errorf("a value was printed: %s", s)
	}
	o.Wipe()
	if bytes.Contains(o.Items[0].Value, []byte("canary")) {
		t.Error("a value is there after Wipe")
	}
	if _, err := k.Open(raw); !errors.Is(err, envelope.ErrUsed) {
		t.Errorf("the same envelope once more: %v", err)
	}
}

// Without items there is an envelope all the same: its renewals end with the run's rights.
func TestOpensEmpty(t *testing.T) {
	k := newKey(t, facts)
	raw, _ := sealed(t, k.Hello(), head, nil)
	if o, err := k.Open(raw); err != nil || len(o.Items) != 0 {
		t.Errorf("%v", err)
	}
}

// TestFactsBind: an envelope for anything else is refused, fact by fact, also when the
// broker itself has signed it.
func TestFactsBind(t *testing.T) {
	v := reflect.TypeOf(facts)
	for i := range v.NumField() {
		other := facts
		f := reflect.ValueOf(&other).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString(f.String() + "x")
		case reflect.Array:
			f.Index(31).SetUint(77)
		default:
			f.SetInt(f.Int() + 1)
		}
		t.Run(v.Field(i).Name, func(t *testing.T) {
			if facts.Differs(other) == "" {
				t.Fatal("Differs does not see it")
			}
			if back, err := envelope.ReadFacts(other.Encode()); err != nil || back != other {
				t.Errorf("%+v came back as %+v, %v", other, back, err)
			}
			k := newKey(t, facts)
			h := head
			h.Facts = other
			raw, _ := sealed(t, k.Hello(), h, items())
			o, err := k.Open(raw)
			if !errors.Is(err, envelope.ErrFacts) || len(o.Items) != 0 {
				t.Errorf("got %v", err)
			}
			if _, err := k.Open(raw); !errors.Is(err, envelope.ErrUsed) {
				t.Errorf("the key was not used up: %v", err)
			}
		})
	}
}

// TestAnotherKey: what was sealed to another hello for the same facts is refused, and
// hellos are never the same.
func TestAnotherKey(t *testing.T) {
	k, other := newKey(t, facts), newKey(t, facts)
	if bytes.Equal(k.Hello(), other.Hello()) {
		t.Fatal("two hellos are the same")
	}
	raw, _ := sealed(t, other.Hello(), head, items())
	if _, err := k.Open(raw); !errors.Is(err, envelope.ErrFacts) {
		t.Errorf("got %v", err)
	}
	if o, err := other.Open(raw); err != nil || len(o.Items) != 3 { // the control
		t.Errorf("its own key: %v", err)
	}
}

// TestForged: who can seal to the sandbox, and is not the broker, is refused.
func TestForged(t *testing.T) {
	k := newKey(t, facts)
	_, private, _ := ed25519.GenerateKey(nil)
	s, err := seal.New(private, k.Hello(), head)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.Seal(items())
	if err != nil {
		t.Fatal(err)
	}
	if o, err := k.Open(raw); !errors.Is(err, envelope.ErrSignature) || len(o.Items) != 0 {
		t.Errorf("got %v", err)
	}
}

// resigned opens an envelope that was changed by somebody who could sign it: what the
// seals alone refuse.
func resigned(t *testing.T, change func(*envelope.Frame)) error {
	t.Helper()
	k := newKey(t, facts)
	raw, _ := sealed(t, k.Hello(), head, items())
	f, err := envelope.ReadFrame(raw)
	if err != nil {
		t.Fatal(err)
	}
	change(f)
	f.Signature = [64]byte(ed25519.Sign(brokerPrivate, f.Signed()))
	o, err := k.Open(f.Encode())
	if err != nil && len(o.Items) != 0 {
		t.Error("refused, and part of it handed out")
	}
	return err
}

func TestSealsHoldByThemselves(t *testing.T) {
	for name, change := range map[string]func(*envelope.Frame){
		"id":         func(f *envelope.Frame) { f.Head.ID[0]++ },
		"freeze":     func(f *envelope.Frame) { f.Head.Terms.Freeze++ },
		"kill":       func(f *envelope.Frame) { f.Head.Terms.Kill++ },
		"epoch":      func(f *envelope.Frame) { f.Head.Epoch++ },
		"hello":      func(f *envelope.Frame) { f.Hello[0]++ },
		"enc":        func(f *envelope.Frame) { f.Enc[5]++ },
		"short enc":  func(f *envelope.Frame) { f.Enc = f.Enc[1:] },
		"ciphertext": func(f *envelope.Frame) { f.Items[1].Ciphertext[0]++ },
		"tag":        func(f *envelope.Frame) { c := f.Items[2].Ciphertext; c[len(c)-1]++ },
		"no text":    func(f *envelope.Frame) { f.Items[0].Ciphertext = nil },
		"name":       func(f *envelope.Frame) { f.Items[0].Name = "PATH" },
		"store":      func(f *envelope.Frame) { f.Items[0].Store = "vault" },
		"version":    func(f *envelope.Frame) { f.Items[0].Version = "2" },
		"guest":      func(f *envelope.Frame) { f.Items[0].Guest = true },
		"file":       func(f *envelope.Frame) { f.Items[0].File = true },
		"strict":     func(f *envelope.Frame) { f.Items[1].Strict = false },
		"wrapped":    func(f *envelope.Frame) { f.Items[1].Wrapped = true },
		"commands":   func(f *envelope.Frame) { f.Items[0].Commands = append(f.Items[0].Commands, "sh") },
		"boundaries": func(f *envelope.Frame) { f.Items[0].Commands = []string{"deplo", "y/usr/bin/git"} },
		"order":      func(f *envelope.Frame) { f.Items[0], f.Items[1] = f.Items[1], f.Items[0] },
		"one less":   func(f *envelope.Frame) { f.Items = f.Items[:2] },
		"none":       func(f *envelope.Frame) { f.Items = f.Items[1:] },
		"twice":      func(f *envelope.Frame) { f.Items = append(f.Items, f.Items[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := resigned(t, change); err == nil {
				t.Error("it was opened")
			}
		})
	}
	if err := resigned(t, func(*envelope.Frame) {}); err != nil { // the control
		t.Errorf("unchanged: %v", err)
	}
}

// TestEveryByte: no byte of an envelope, and none of its lengths, can be another.
func TestEveryByte(t *testing.T) {
	k := newKey(t, facts)
	raw, _ := sealed(t, k.Hello(), head, items()[:2])
	verify := func(raw []byte) bool { // as Open does first, without a key each
		f, err := envelope.ReadFrame(raw)
		return err == nil && ed25519.Verify(brokerPublic, f.Signed(), f.Signature[:])
	}
	if !verify(raw) {
		t.Fatal("unchanged, it is refused")
	}
	for i := range raw {
		c := bytes.Clone(raw)
		c[i] ^= 1 << (i % 8)
		if verify(c) {
			t.Fatalf("byte %d can be changed", i)
		}
		if verify(raw[:i]) {
			t.Fatalf("it can be cut at %d", i)
		}
	}
	if verify(append(bytes.Clone(raw), 0)) {
		t.Error("a byte can be appended")
	}
}

// TestVersions: who has no version in common with the other is told so, and never gets
// an older one by what a worker leaves out.
func TestVersions(t *testing.T) {
	k := newKey(t, facts)
	h, err := envelope.ReadHello(k.Hello())
	if err != nil {
		t.Fatal(err)
	}
	for _, versions := range [][]byte{nil, {0}, {1}, {envelope.Version + 1, envelope.Version + 2}} {
		h.Versions = versions
		if _, err := seal.New(brokerPrivate, h.Encode(), head); !errors.Is(err, envelope.ErrVersion) {
			t.Errorf("a sandbox of versions %v: %v", versions, err)
		}
	}
	raw, _ := sealed(t, k.Hello(), head, items())
	raw[len("stepward envelope")] = envelope.Version + 1
	if _, err := k.Open(raw); !errors.Is(err, envelope.ErrVersion) {
		t.Errorf("an envelope of a later version: %v", err)
	}
	k = newKey(t, facts)
	h, _ = envelope.ReadHello(k.Hello())
	h.Versions = append(h.Versions, 9) // as if the worker had changed the list
	raw, _ = sealed(t, h.Encode(), head, items())
	if _, err := k.Open(raw); !errors.Is(err, envelope.ErrFacts) {
		t.Errorf("an envelope for a hello that was changed: %v", err)
	}
}

func TestHelloRefused(t *testing.T) {
	k := newKey(t, facts)
	for name, hello := range map[string][]byte{
		"empty": nil, "cut": k.Hello()[:40], "longer": append(bytes.Clone(k.Hello()), 1),
		"no key": envelope.Hello{Versions: []byte{envelope.Version}}.Encode(),
		"short":  envelope.Hello{Versions: []byte{envelope.Version}, PublicKey: make([]byte, 32)}.Encode(),
	} {
		if _, err := seal.New(brokerPrivate, hello, head); !errors.Is(err, envelope.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := seal.New(brokerPrivate, k.Hello(), envelope.Head{Facts: facts}); err == nil {
		t.Error("an envelope without an id")
	}
	if _, err := open.NewKey(facts, brokerPublic[:31], envelope.Witness{}); !errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("half a broker's key: %v", err)
	}
}

// TestRefusesToSeal: what a sandbox would refuse is not sealed in the first place.
func TestRefusesToSeal(t *testing.T) {
	long := bytes.Repeat([]byte("x"), envelope.MaxValue+1)
	for name, i := range map[string]envelope.Item{
		"no name": {Value: []byte("v")}, "equals": {Name: "A=B"}, "ours": {Name: "STEPWARD_SANDBOX"},
		"zero": {Name: "A", Value: []byte("a\x00b")}, "long": {Name: "A", Value: long}, "relative": {Name: "A", Commands: []string{"bin/sh"}},
	} {
		s, err := seal.New(brokerPrivate, newKey(t, facts).Hello(), head)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Seal([]envelope.Item{i}); !errors.Is(err, envelope.ErrMalformed) || strings.Contains(err.Error(), "xxx") {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	s, err := seal.New(brokerPrivate, newKey(t, facts).Hello(), head)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal([]envelope.Item{{Name: "A"}, {Name: "A"}}); !errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("twice one name: %v", err)
	}
	if _, err := s.Seal(nil); !errors.Is(err, envelope.ErrUsed) {
		t.Errorf("sealed twice: %v", err)
	}
	bad := head
	bad.Terms.Kill = time.Second
	s, err = seal.New(brokerPrivate, newKey(t, facts).Hello(), bad)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal(nil); !errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("killed before it is frozen: %v", err)
	}
}

// TestReplayIsOurs: HPKE itself opens twice what was sealed once. The key's use is what
// keeps it from that.
func TestReplayIsOurs(t *testing.T) {
	private, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	enc, s, err := hpke.NewSender(private.PublicKey(), hpke.HKDFSHA256(), hpke.AES256GCM(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ct, err := s.Seal(nil, []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Open(nil, ct); err != nil {
			t.Errorf("a replay is refused by HPKE itself: %v", err)
		}
	}
}

// TestLengthHidden: values of up to 252 bytes make envelopes of one size.
func TestLengthHidden(t *testing.T) {
	size := func(n int) int {
		raw, _ := sealed(t, newKey(t, facts).Hello(), head, []envelope.Item{{Name: "A", Value: bytes.Repeat([]byte("x"), n)}})
		return len(raw)
	}
	if size(0) != size(252) || size(252) >= size(253) {
		t.Errorf("0, 252 and 253 bytes: %d, %d, %d", size(0), size(252), size(253))
	}
}

func TestRenewal(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	of := func(id envelope.ID) []byte {
		if id == head.ID {
			return key
		}
		return nil
	}
	want := envelope.Renewal{Envelope: head.ID, Counter: 3, Challenge: [32]byte{5}, Epoch: 4, State: envelope.Renewed}
	raw := want.Encode(key)
	if got, err := envelope.ReadRenewal(raw, of); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range raw {
		c := bytes.Clone(raw)
		c[i] ^= 1 << (i % 8)
		if _, err := envelope.ReadRenewal(c, of); err == nil {
			t.Fatalf("byte %d can be changed", i)
		}
		if _, err := envelope.ReadRenewal(raw[:i], of); !errors.Is(err, envelope.ErrMalformed) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := envelope.ReadRenewal(want.Encode([]byte("another")), of); !errors.Is(err, envelope.ErrSignature) {
		t.Errorf("of another key: %v", err)
	}
	want.Envelope[0]++
	if _, err := envelope.ReadRenewal(want.Encode(key), of); !errors.Is(err, envelope.ErrSignature) {
		t.Errorf("of no envelope: %v", err)
	}
	want.Envelope, want.State = head.ID, 0
	if _, err := envelope.ReadRenewal(want.Encode(key), of); !errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("without a state: %v", err)
	}
}

// Facts are carried as they are, or not at all.
func TestFactsTravel(t *testing.T) {
	raw := facts.Encode()
	if got, err := envelope.ReadFacts(raw); err != nil || got != facts {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range raw {
		if _, err := envelope.ReadFacts(raw[:n]); !errors.Is(err, envelope.ErrMalformed) {
			t.Fatalf("the first %d bytes are read: %v", n, err)
		}
	}
	if _, err := envelope.ReadFacts(append(raw, 0)); !errors.Is(err, envelope.ErrMalformed) {
		t.Errorf("more is read: %v", err)
	}
}

// FuzzFrame: what is read has one form, and it is the one that was read.
func FuzzFrame(f *testing.F) {
	k, err := open.NewKey(facts, brokerPublic, envelope.Witness{})
	if err != nil {
		f.Fatal(err)
	}
	s, err := seal.New(brokerPrivate, k.Hello(), head)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := s.Seal(items())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:200])
	f.Add(k.Hello())
	f.Add(facts.Encode())
	f.Add(envelope.Renewal{State: 1}.Encode(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if f, err := envelope.ReadFrame(raw); err == nil && !bytes.Equal(f.Encode(), raw) {
			t.Error("another form of one envelope")
		}
		if f, err := envelope.ReadFacts(raw); err == nil && !bytes.Equal(f.Encode(), raw) {
			t.Error("another form of the same facts")
		}
		if h, err := envelope.ReadHello(raw); err == nil && !bytes.Equal(h.Encode(), raw) {
			t.Error("another form of one hello")
		}
		if f, err := envelope.ReadFacts(raw); err == nil && !bytes.Equal(f.Encode(), raw) {
			t.Error("another form of the same facts")
		}
		if r, err := envelope.ReadRenewal(raw, func(envelope.ID) []byte { return []byte{} }); err == nil && !bytes.Equal(r.Encode(nil), raw) {
			t.Error("another form of one renewal")
		}
	})
}

// TestProof: the proof in a hello is for one broker, about one key and one attempt, whatever a worker puts
// together from those that it has seen; and a hello without it is another hello.
func TestProof(t *testing.T) {
	ours, err := seal.NewProofKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.NewProofKey(bytes.Repeat([]byte{7}, 32))
	if err != nil || !bytes.Equal(ours.Public(), again.Public()) {
		t.Errorf("another key comes of the same seed: %v", err)
	}
	theirs, err := seal.NewProofKey(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	hello := func(f envelope.Facts, to seal.ProofKey) envelope.Hello {
		t.Helper()
		k, err := open.NewKey(f, brokerPublic, envelope.Witness{Backend: "docker", Secret: []byte("canary-3"), Broker: to.Public()})
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(k.Hello(), []byte("canary")) {
			t.Error("the proof can be read on the way")
		}
		h, err := envelope.ReadHello(k.Hello())
		if err != nil || !bytes.Equal(h.Encode(), k.Hello()) {
			t.Fatalf("%v", err)
		}
		return h
	}
	good := hello(facts, ours)
	if secret, err := ours.Open(good, facts); err != nil || string(secret) != "canary-3" {
		t.Fatalf("got %q, %v", secret, err)
	}
	if _, err := ours.Open(hello(facts, theirs), facts); !errors.Is(err, envelope.ErrSealed) {
		t.Errorf("sealed to another broker: %v", err)
	}
	for name, change := range map[string]func(*envelope.Hello){
		"key":      func(h *envelope.Hello) { h.PublicKey = hello(facts, ours).PublicKey },
		"backend":  func(h *envelope.Hello) { h.Backend = "kubernetes" },
		"versions": func(h *envelope.Hello) { h.Versions = append(h.Versions, 9) },
		"proof":    func(h *envelope.Hello) { h.Proof = hello(facts, ours).Proof },
		"none":     func(h *envelope.Hello) { h.Proof = nil },
	} {
		h := good
		change(&h)
		if _, err := ours.Open(h, facts); !errors.Is(err, envelope.ErrSealed) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	v := reflect.TypeOf(facts)
	for i := range v.NumField() {
		other := facts
		switch f := reflect.ValueOf(&other).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString(f.String() + "x")
		case reflect.Array:
			f.Index(31).SetUint(77)
		default:
			f.SetInt(f.Int() + 1)
		}
		if _, err := ours.Open(good, other); !errors.Is(err, envelope.ErrSealed) {
			t.Errorf("for another %s: %v", v.Field(i).Name, err)
		}
	}
	k, err := open.NewKey(facts, brokerPublic, envelope.Witness{Backend: "docker", Secret: []byte("x"), Broker: ours.Public()})
	if err != nil {
		t.Fatal(err)
	}
	h, err := envelope.ReadHello(k.Hello())
	if err != nil {
		t.Fatal(err)
	}
	h.Backend, h.Proof = "", nil
	raw, _ := sealed(t, h.Encode(), head, items())
	if _, err := k.Open(raw); !errors.Is(err, envelope.ErrFacts) {
		t.Errorf("an envelope for a hello whose proof was taken away: %v", err)
	}
	for name, w := range map[string]envelope.Witness{
		"no secret": {Backend: "docker", Broker: ours.Public()}, "no key": {Backend: "docker", Secret: []byte("x")},
		"too much": {Backend: "docker", Broker: ours.Public(), Secret: make([]byte, 9<<10)},
	} {
		if _, err := open.NewKey(facts, brokerPublic, w); !errors.Is(err, envelope.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
