package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// The vectors of c2sp.org/XAES-256-GCM.
func TestVectors(t *testing.T) {
	for _, v := range []struct {
		key        byte
		aad, plain string
		want       string
	}{
		{1, "", "XAES-256-GCM", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		c, err := New(Key{"k", bytes.Repeat([]byte{v.key}, 32)})
		if err != nil {
			t.Fatal(err)
		}
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		gcm, err := c.keys["k"].derive(nonce)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(gcm.Seal(nil, nonce[12:], []byte(v.plain), []byte(v.aad))); got != v.want {
			t.Errorf("got %s, want %s", got, v.want)
		}
	}
}

func ring(t testing.TB, ids ...string) *Codec {
	t.Helper()
	var keys []Key
	for _, id := range ids {
		keys = append(keys, Key{id, bytes.Repeat([]byte(id[:1]), 32)})
	}
	c, err := New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRotation(t *testing.T) {
	id, data, err := ring(t, "old").Encode(t.Context(), []byte("plain"))
	if err != nil || id != "old" || bytes.Contains(data, []byte("plain")) {
		t.Fatalf("%s %q %v", id, data, err)
	}
	if v, err := ring(t, "new", "old").Decode(t.Context(), id, data); err != nil || string(v) != "plain" {
		t.Errorf("%q, %v", v, err)
	}
	_, err = ring(t, "new").Decode(t.Context(), id, data)
	var missing *KeyError
	if !errors.As(err, &missing) || missing.ID != "old" {
		t.Errorf("got %v", err)
	}
	_, again, err := ring(t, "old").Encode(t.Context(), []byte("plain"))
	if err != nil || bytes.Equal(again, data) {
		t.Errorf("the same value twice is the same data: %v", err)
	}
}

// What was changed, cut or named otherwise does not decode.
func TestForged(t *testing.T) {
	c := ring(t, "a", "b")
	id, data, err := c.Encode(t.Context(), []byte("plain"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		forged := bytes.Clone(data)
		forged[i] ^= 1
		for _, d := range [][]byte{forged, data[:i]} {
			var p interface{ Permanent() bool }
			if _, err := c.Decode(t.Context(), id, d); !errors.As(err, &p) {
				t.Errorf("byte %d: %v", i, err)
			}
		}
	}
	if _, err := c.Decode(t.Context(), "b", data); err == nil {
		t.Error("another key decoded it")
	}
}

func TestBadKeys(t *testing.T) {
	good := bytes.Repeat([]byte{1}, 32)
	for _, keys := range [][]Key{nil, {{"", good}}, {{"short", good[:16]}}, {{"x", good}, {"x", good}}, {{strings.Repeat("x", 256), good}}} {
		if c, err := New(keys...); err == nil {
			t.Errorf("made %v", c.first)
		}
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	k := Key{"id", []byte("secretsecretsecretsecretsecretse")}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "keys", []Key{k})
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %x %q", k, k, k, k), fmt.Sprint([]Key{k}), log.String(), string(text)} {
		if strings.Contains(s, "secret") || strings.Contains(s, hex.EncodeToString([]byte("secret"))) || strings.Contains(s, "c2VjcmV0") || !strings.Contains(s, "sealed.Key(id)") {
			t.Errorf("printed as %s", s)
		}
	}
}

// Whatever is stored, it decodes only if the ring has encrypted it, and any other error
// is one for good.
func FuzzDecode(f *testing.F) {
	c := ring(f, "a", "b")
	const id = "a"
	nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX") // not a random one: the processes of a fuzzer have the same data
	gcm, err := c.keys[id].derive(nonce)
	if err != nil {
		f.Fatal(err)
	}
	data := gcm.Seal(nonce, nonce[12:], []byte("plain"), []byte(id))
	f.Add(id, data)
	f.Add("b", data)
	f.Add(id, data[:nonceSize])
	f.Add(id, data[:len(data)-1])
	f.Add("", []byte(nil))
	f.Add("c", bytes.Repeat([]byte{0xff}, nonceSize+overhead))
	f.Fuzz(func(t *testing.T, keyID string, stored []byte) {
		kept := bytes.Clone(stored)
		plain, err := c.Decode(t.Context(), keyID, stored)
		if !bytes.Equal(kept, stored) {
			t.Error("what is stored was written to")
		}
		if keyID == id && bytes.Equal(stored, data) {
			if err != nil || string(plain) != "plain" {
				t.Errorf("got %q, %v", plain, err)
			}
			return
		}
		var permanent interface{ Permanent() bool }
		if err == nil || plain != nil || !errors.As(err, &permanent) || !permanent.Permanent() {
			t.Errorf("%q of key %q is %q, %v", stored, keyID, plain, err)
		}
	})
}
