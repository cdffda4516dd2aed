package egress

import (
	"cmp"
	"slices"
	"strconv"
)

// Decisions.
const (
	Allowed = "allowed"
	Denied  = "denied"
)

// A Record adds up what was decided about an endpoint.
type Record struct {
	Host     string
	Port     int
	Decision string
	Reason   string // of a denial; or why connections that were allowed failed
	Count    int64
	Sent     int64 // bytes, once a connection has ended
	Received int64
}

type recordKey struct {
	host     string
	port     int
	decision string
	reason   string
}

// maxRecords bounds how many endpoints are told apart: who makes up names must
// not fill the worker's memory, or the audit.
const maxRecords = 256

// others stands for the endpoints beyond that.
const others = "(others)"

// record adds to the totals. The caller holds g.mu.
func (g *Gate) record(k recordKey, count, sent, received int64) {
	r := g.records[k]
	if r == nil && len(g.records) >= maxRecords {
		k = recordKey{host: others, decision: k.decision}
		r = g.records[k]
	}
	if r == nil {
		r = &Record{Host: k.host, Port: k.port, Decision: k.decision, Reason: k.reason}
		g.records[k] = r
	}
	r.Count += count
	r.Sent += sent
	r.Received += received
}

// Records returns the totals so far, in an order that does not change.
func (g *Gate) Records() []Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Record
	for _, r := range g.records {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Decision, b.Decision), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// shown is a host that could not be read, for people and logs: in ASCII, without
// control characters, and not too long.
func shown(s string) string {
	if len(s) > maxName {
		s = s[:maxName] + "…"
	}
	q := strconv.QuoteToASCII(s)
	return q[1 : len(q)-1]
}
