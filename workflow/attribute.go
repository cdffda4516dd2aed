package workflow

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stepward/stepward/internal/engine"
)

const maxAttributes = 16

// encodeAttributes encodes those of a struct of options.
func encodeAttributes(where string, m map[string]any) ([]engine.Attribute, error) {
	if len(m) > maxAttributes {
		return nil, &OptionError{Option: where + ".Attributes", Reason: fmt.Sprintf("%d of them, the limit is %d", len(m), maxAttributes)}
	}
	var out []engine.Attribute
	for _, name := range slices.Sorted(maps.Keys(m)) {
		value, err := checkAttribute(where+".Attributes", name, m[name])
		if err != nil {
			return nil, err
		}
		out = append(out, engine.Attribute{Name: name, Value: value})
	}
	return out, nil
}

func checkAttribute(where, name string, v any) ([]byte, error) {
	where = fmt.Sprintf("%s[%.40q]", where, name)
	if !validName.MatchString(name) {
		return nil, &OptionError{Option: where, Reason: "bad name: " + nameRule}
	}
	value, reason := engine.EncodeAttribute(v)
	if reason != "" {
		return nil, &OptionError{Option: where, Reason: reason}
	}
	return value, nil
}

// SetAttribute implements Context.
func (c bodyContext) SetAttribute(name string, v any) error {
	c.b.enter()
	value, err := checkAttribute("SetAttribute", name, v)
	if err != nil {
		return err
	}
	s := &c.b.t.shows
	if !slices.Contains(s.attributes, name) {
		if len(s.attributes) == maxAttributes {
			return &OptionError{Option: fmt.Sprintf("SetAttribute[%q]", name), Reason: fmt.Sprintf("the body has set %d others, the limit is %d", maxAttributes, maxAttributes)}
		}
		s.attributes = append(s.attributes, name)
	}
	c.b.show(len(name)+len(value), func(b *engine.Batch) {
		b.Attributes = append(b.Attributes, engine.Attribute{Name: name, Value: value})
	})
	return nil
}

// An AttributeFilter says what an attribute of a run must be. Values of
// different types are never equal, and none is before the other: an int64 is no
// float64.
type AttributeFilter struct {
	Name string

	// Equal is the value. The fields below are for when it is nil; all nil or
	// empty: the run has the attribute, of whatever type.
	Equal any

	From, To any    // from From to below To, both of one type; nil: without a bound
	Prefix   string // a string that begins so
}

// bounds returns the encoded values from low to below high that the filter
// lets through.
func (f AttributeFilter) bounds(i int) (low, high []byte, err error) {
	where := fmt.Sprintf("RunFilter.Attributes[%d]", i)
	bad := func(reason string) error { return &OptionError{Option: where, Reason: reason} }
	encoded := func(v any) (b []byte) {
		if v != nil && err == nil {
			b, err = checkAttribute(where, f.Name, v)
		}
		return b
	}
	ranged := f.From != nil || f.To != nil
	switch {
	case !validName.MatchString(f.Name):
		return nil, nil, bad("bad name: " + nameRule)
	case f.Equal != nil && (ranged || f.Prefix != "") || ranged && f.Prefix != "":
		return nil, nil, bad("more than one of Equal, a range and Prefix")
	case f.Equal != nil:
		low = encoded(f.Equal)
		return low, append(slices.Clone(low), 0), err
	case f.Prefix != "":
		low = encoded(f.Prefix)
		if err != nil {
			return nil, nil, err
		}
		high = slices.Clone(low)
		high[len(high)-1]++ // no byte of UTF-8 is 255
		return low, high, nil
	case !ranged:
		return []byte{}, []byte{255}, nil
	}
	low, high = encoded(f.From), encoded(f.To)
	switch {
	case err != nil:
		return nil, nil, err
	case low == nil:
		low = high[:1]
	case high == nil:
		high = []byte{low[0] + 1}
	case low[0] != high[0]:
		return nil, nil, bad(fmt.Sprintf("From is a %T and To a %T", f.From, f.To))
	}
	return low, high, nil
}

// find lists runs by their attributes. It looks candidates up, a page at a time,
// and applies the rest of the filter to them.
func (c *Client) find(ctx context.Context, f RunFilter, limit int) ([]RunStatus, error) {
	var name string
	var low, high []byte
	names, lows, highs := []string{}, [][]byte{}, [][]byte{}
	lead := max(slices.IndexFunc(f.Attributes, func(a AttributeFilter) bool { return a.Equal != nil }), 0)
	for i, a := range f.Attributes {
		l, h, err := a.bounds(i)
		if err != nil {
			return nil, err
		}
		if i == lead {
			name, low, high = a.Name, l, h
			continue
		}
		names, lows, highs = append(names, a.Name), append(lows, l), append(highs, h)
	}
	const page = 1000
	below := int64(math.MaxInt64)
	if f.Before != 0 {
		below = int64(f.Before)
	}
	var found []RunStatus
	for n := limit; ; n = page { // most often, all candidates are wanted
		query, args := c.q.AttributeEqual, []any{name, low, below, n, names, lows, highs}
		if !bytes.Equal(high, append(slices.Clone(low), 0)) {
			query, args = c.q.AttributeRange, append(args, high)
		}
		rows, err := c.pool.Query(ctx, query, args...)
		if err != nil {
			return nil, err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil || len(ids) == 0 {
			return found, err
		}
		runs, err := c.list(ctx, c.pool, nil, nil, f.Tenant, optional(f.Workflow), optional(f.Version), optional(string(f.State)), optional(f.Reason), limit-len(found), ids)
		if err != nil {
			return nil, err
		}
		found = append(found, runs...)
		if len(found) == limit || len(ids) < n {
			return found, nil
		}
		below = ids[len(ids)-1]
	}
}
