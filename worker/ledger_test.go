package worker

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/boottime"
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

// What was left to a worker that dies is not left any more by the one that notices.
func TestLacksUntilOneDies(t *testing.T) {
	t.Parallel()
	w, _ := holding(t)
	w.log, w.ring = slog.New(slog.DiscardHandler), make(chan struct{}, 1)
	for _, k := range []kind{{}, {1, "acme", 7}} {
		w.lacks.rest(k, "store TOKEN acme", errors.New("no store"))
	}
	reap := func(state string) (ids []int32) {
		t.Helper()
		for _, sql := range []string{
			"DELETE FROM stepward.turn",
			"INSERT INTO stepward.worker (session, name, state, lease_until, lease_s, requirements, backends) VALUES (hashtext('" + state + "'), 'able', '" + state + "', 'epoch', 10, '{}', '{}')",
		} {
			if _, err := w.Pool.Exec(t.Context(), in(w.q, sql)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		ids, _, _ = w.lacks.kinds()
		return ids
	}
	if ids := reap("dead"); len(ids) != 1 || !w.lacks.resting() { // the control: that is known already
		t.Errorf("it leaves %v", ids)
	}
	if ids := reap("live"); len(ids) != 0 || w.lacks.resting() || len(w.ring) != 1 {
		t.Errorf("it still leaves %v", ids)
	}
}

// Each kind of runs that is handed on is left alone for itself, for longer each time, however many of it one claim
// took. What is too much to be told apart counts as of all.
func TestLacks(t *testing.T) {
	var l lacks
	if ids, _, _ := l.kinds(); l.resting() || l.lately() != "" || ids != nil { // the control
		t.Error("a worker that lacks nothing rests")
	}
	why, acme, beta := errors.New("no store"), kind{1, "acme", 7}, kind{1, "acme", 8}
	now := boottime.Now()
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		for range 3 {
			l.restAt(now, acme, "store", why)
		}
		if p := l.pauses[acme]; p.long != want*time.Second || p.until != now+p.long {
			t.Errorf("%d: it rests for %v", i, p.long)
		}
		now = l.pauses[acme].until
	}
	l.restAt(now+lackFor+1, acme, "store", why)
	l.rest(beta, "store", why)
	if p := l.pauses[acme]; p.long != lackPause {
		t.Errorf("after a minute it rests for %v", p.long)
	}
	if p := l.pauses[beta]; p.long != lackPause || l.resting() || l.lately() != "no store" {
		t.Errorf("it rests for %v, from all: %v, for want of %q", p.long, l.resting(), l.lately())
	}
	if ids, tenants, bindings := l.kinds(); len(ids) != 2 || len(tenants) != 2 || !slices.Contains(bindings, 7) || !slices.Contains(bindings, 8) {
		t.Errorf("got %v, %v, %v", ids, tenants, bindings)
	}
	for i := range int64(lackMost) {
		l.rest(kind{2, "many", i}, "store", why)
	}
	if ids, _, _ := l.kinds(); len(l.pauses) != lackMost+1 || len(ids) != lackMost || !l.resting() {
		t.Errorf("it tells %d kinds apart", len(ids))
	}
}

// What can be given again is lacking no more, and nothing else: not what runs that are bound otherwise still lack.
func TestLacksMended(t *testing.T) {
	t.Parallel()
	var l lacks
	own, other, third := kind{1, "acme", 7}, kind{1, "acme", 8}, kind{1, "acme", 9}
	l.rest(own, "store A acme", errors.New("A"))
	l.rest(other, "store A acme", errors.New("A of others"))
	l.rest(third, "level B acme", errors.New("B"))
	l.rest(kind{}, lacksBroker, errors.New("no broker"))
	if !l.about("acme") || !l.about("globex") {
		t.Error("nothing is left to others")
	}
	if kinds, over := l.mend(own); len(kinds) != 2 || !slices.Equal(over, []string{lacksBroker}) || l.resting() || l.lately() != "B" {
		t.Errorf("%v are mended, %v is lacking no more, %q still is", kinds, over, l.lately())
	}
	if kinds, over := l.mend(own); len(kinds) != 0 || len(over) != 0 || l.about("globex") {
		t.Errorf("%v are mended again, %v is lacking no more", kinds, over)
	}
	l.mend(third)
	if kinds, over := l.mend(other); !slices.Equal(kinds, []kind{other}) || !slices.Equal(over, []string{"store A acme"}) || l.lately() != "" || l.about("acme") {
		t.Errorf("%v are mended, %v is lacking no more, %q still is", kinds, over, l.lately())
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
