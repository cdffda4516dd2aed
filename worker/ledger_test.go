package worker

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/sandbox"
)

// What looks like a key is on record by its kind, and told of once. Nothing of it is.
func TestLedgerSuspects(t *testing.T) {
	var l ledger
	key := "AKIA" + strings.Repeat("Q", 16)
	if l.suspect([]byte(`"nothing"`)) != nil || l.json() != nil {
		t.Error("something is on record")
	}
	if kinds := l.suspect([]byte(key)); len(kinds) != 1 || kinds[0] != "aws-access-key" {
		t.Errorf("got %v", kinds)
	}
	if kinds := l.suspect([]byte(key)); kinds != nil {
		t.Errorf("got %v", kinds)
	}
	l.found(map[string]map[string]int64{"TOKEN": {"raw": 2}}, []string{"TOKEN"})
	if raw := string(l.json()); !strings.Contains(raw, `"suspected":{"aws-access-key":2}`) || !strings.Contains(raw, `"redacted":{"TOKEN":{"raw":2}}`) || strings.Contains(raw, key) {
		t.Errorf("got %s", raw)
	}
}

// A sandbox that is not what it was says what it likes. Nothing of that keeps the event of its end from being
// written, or is in it but counts of what there is.
func TestLedgerBelievesLittle(t *testing.T) {
	var l ledger
	l.found(map[string]map[string]int64{
		"TOKEN":      {"raw": 2, "r\x00w": 1, "json": -1, "hex": 0, strings.Repeat("x", 1<<20): 1},
		"OPTIONAL":   {"base64 twice": 1},
		"NOT_LISTED": {"raw": 1},
		"NUL\x00":    {"raw": 1},
		"SILENT":     {"json": -1},
	}, []string{"TOKEN", "OPTIONAL?", "SILENT"})
	if raw := string(l.json()); !strings.Contains(raw, `"redacted":{"OPTIONAL":{"base64 twice":1},"TOKEN":{"raw":2}}`) || len(raw) > 1000 {
		t.Errorf("got %.1000s", raw)
	}
	l.found(map[string]map[string]int64{"TOKEN": {"raw": -1}}, []string{"TOKEN"})
	if raw := l.json(); raw != nil {
		t.Errorf("got %s", raw)
	}
}

// A sandbox whose secrets are revoked is destroyed, and not asked first what it found.
func TestRevokedIsNotAsked(t *testing.T) {
	l := &lent{b: &box{}} // which there is no way to
	l.revoked.Store(true)
	l.ask(t.Context())
	if raw := l.b.used.json(); raw != nil {
		t.Errorf("got %s", raw)
	}
}

// A late word about a session that is over does not hide what is known of the one that goes on.
func TestRevokedSession(t *testing.T) {
	w := &worker{}
	w.lease.id.Store(2)
	w.revoked.Store(2)
	w.revokedNow(1, errors.New("revoked"))
	w.strandedNow(1, errors.New("stranded"))
	if !w.isRevoked() || w.isStranded() {
		t.Error("the worker takes itself for one that is not revoked, or that is stranded")
	}
}

// A worker whose broker does not start tries less often each time; for anything else it looks away for a moment only.
func TestLacks(t *testing.T) {
	var l lacks
	if l.resting() || l.last() != "" { // the control
		t.Error("a worker that lacks nothing rests")
	}
	for i, c := range []struct {
		longer bool
		want   time.Duration
	}{{true, 1}, {true, 2}, {true, 4}, {false, 1}, {true, 1}, {true, 2}, {true, 4}, {true, 8}, {true, 16}, {true, 30}, {true, 30}} {
		l.rest(errors.New("no passphrase"), c.longer)
		if l.pause != c.want*time.Second || l.last() != "no passphrase" {
			t.Errorf("%d: it rests for %v, for want of %q", i, l.pause, l.last())
		}
	}
	if !l.resting() {
		t.Error("it does not rest")
	}
}

// Sums have all commands, the list its first, and no name of a command keeps the
// event from being written.
func TestLedger(t *testing.T) {
	var l ledger
	if l.json() != nil {
		t.Error("nothing ran, and something is on record")
	}
	for range maxEach + 10 {
		l.add("a\x00b\xff"+strings.Repeat("x", 500), sandbox.Usage{CPU: time.Millisecond, Memory: 7, Stdin: 1, Stdout: 2, Stderr: 3}, errors.New("no"))
	}
	raw := l.json()
	if err := json.Unmarshal(raw, &l.used); err != nil {
		t.Fatal(err)
	}
	if u := l.used; u.Commands != maxEach+10 || len(u.Each) != maxEach || u.In != maxEach+10 || u.Out != 5*(maxEach+10) || u.Memory != 7 || !u.Each[0].Failed {
		t.Errorf("%+v", u)
	}
	if strings.Contains(string(raw), `\u0000`) {
		t.Error("a NUL is in it, which jsonb refuses")
	}
}
