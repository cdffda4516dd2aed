package envelope

import (
	"fmt"
	"strings"
	"time"
)

// Version is the newest form that this program knows. It is in each hello.
const Version = 2

// An ID names an envelope.
type ID [16]byte

// Facts are what an envelope is for. The sandbox is told of them before it makes its
// key, and the broker has them from its own sources: they have to agree.
type Facts struct {
	Tenant, Workflow, Version string

	Step    string // with its occurrence
	Run     int64
	Seq     int
	Attempt int
	Epoch   int

	Sandbox string

	Nonce  [32]byte // the broker's, one for each attempt
	Policy [32]byte // digest of what the run was bound to
}

const factsMagic = "stepward facts 1"

func (w *writer) facts(f Facts) {
	for _, s := range []string{f.Tenant, f.Workflow, f.Version, f.Step, f.Sandbox} {
		w.bytes([]byte(s))
	}
	for _, n := range []int64{f.Run, int64(f.Seq), int64(f.Attempt), int64(f.Epoch)} {
		w.u64(uint64(n))
	}
	w.raw(f.Nonce[:])
	w.raw(f.Policy[:])
}

func (r *reader) facts() (f Facts) {
	for _, s := range []*string{&f.Tenant, &f.Workflow, &f.Version, &f.Step, &f.Sandbox} {
		*s = string(r.bytes(maxName))
	}
	f.Run = int64(r.u64())
	for _, n := range []*int{&f.Seq, &f.Attempt, &f.Epoch} {
		*n = int(int64(r.u64()))
	}
	r.fixed(f.Nonce[:])
	r.fixed(f.Policy[:])
	return f
}

// Encode returns the facts' form: the broker has it carried to the sandbox.
func (f Facts) Encode() []byte {
	w := &writer{b: []byte(factsMagic)}
	w.facts(f)
	return w.b
}

// ReadFacts reads facts.
func ReadFacts(raw []byte) (f Facts, err error) {
	r := &reader{b: raw}
	if string(r.take(len(factsMagic))) != factsMagic {
		return f, fmt.Errorf("facts: %w", ErrMalformed)
	}
	f = r.facts()
	if err := r.end(); err != nil {
		return Facts{}, fmt.Errorf("facts: %w", err)
	}
	return f, nil
}

// Differs names the first fact in which f is not g, "" if there is none.
func (f Facts) Differs(g Facts) string {
	for _, c := range []struct {
		name string
		same bool
	}{
		{"tenant", f.Tenant == g.Tenant}, {"workflow", f.Workflow == g.Workflow}, {"version", f.Version == g.Version},
		{"step", f.Step == g.Step}, {"run", f.Run == g.Run}, {"seq", f.Seq == g.Seq}, {"attempt", f.Attempt == g.Attempt},
		{"epoch", f.Epoch == g.Epoch}, {"sandbox", f.Sandbox == g.Sandbox}, {"nonce", f.Nonce == g.Nonce}, {"policy", f.Policy == g.Policy},
	} {
		if !c.same {
			return c.name
		}
	}
	return ""
}

// StepName is what the step of such a key was made with: before it stands its branch, and behind it the
// occurrence or index.
func StepName(key string) string {
	key = key[strings.LastIndexByte(key, '/')+1:]
	if i := strings.IndexAny(key, "#["); i >= 0 {
		key = key[:i]
	}
	return key
}

// Terms say how long what is in an envelope can be used without a renewal. They count
// from when the sandbox asked, by a hello or a challenge, for what came in answer.
type Terms struct {
	Freeze time.Duration // after that nothing in the sandbox goes on
	Kill   time.Duration // after that it is ended
}

// The terms where nothing else is said.
const (
	FreezeDefault = 15 * time.Second
	KillDefault   = 90 * time.Second
)

func (t Terms) check() error {
	if t.Freeze <= 0 || t.Kill < t.Freeze || t.Kill > 24*time.Hour {
		return fmt.Errorf("%w: terms of %v and %v", ErrMalformed, t.Freeze, t.Kill)
	}
	return nil
}

// A Head is what an envelope is about, besides its items.
type Head struct {
	ID    ID
	Facts Facts
	Terms Terms
	Epoch int64 // of the revocations that were looked at
}
