package engine_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stepward/stepward/internal/engine"
)

func encode(t rapid.TB, v any) []byte {
	t.Helper()
	b, reason := engine.EncodeAttribute(v)
	if reason != "" {
		t.Fatal(reason)
	}
	return b
}

// The order of stored bytes is that of the values, and a value comes back as it
// was.
func TestAttributeOrder(t *testing.T) {
	values := rapid.OneOf(
		rapid.Int64().AsAny(), rapid.Float64().AsAny(), rapid.Bool().AsAny(),
		rapid.StringN(0, 50, 200).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }).AsAny(),
		rapid.Map(rapid.Int64(), func(n int64) time.Time { return time.Unix(0, n).UTC() }).AsAny(),
	)
	rapid.Check(t, func(t *rapid.T) {
		a, b := values.Draw(t, "a"), values.Draw(t, "b")
		x, y := encode(t, a), encode(t, b)
		if back := engine.DecodeAttribute(x); back != a {
			t.Fatalf("%#v came back as %#v", a, back)
		}
		order := 0
		switch a := a.(type) {
		case int64:
			if b, ok := b.(int64); ok {
				order = cmpOf(a < b, a > b)
			}
		case float64:
			if b, ok := b.(float64); ok {
				order = cmpOf(a < b, a > b)
			}
		case string:
			if b, ok := b.(string); ok {
				order = strings.Compare(a, b)
			}
		case time.Time:
			if b, ok := b.(time.Time); ok {
				order = a.Compare(b)
			}
		}
		if reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.TypeOf(a).Kind() != reflect.Bool && slices.Compare(x, y) != order {
			t.Fatalf("%#v and %#v: bytes %x and %x", a, b, x, y)
		}
	})
}

func cmpOf(less, more bool) int {
	switch {
	case less:
		return -1
	case more:
		return 1
	}
	return 0
}

// Whatever is stored decodes to something.
func FuzzDecodeAttribute(f *testing.F) {
	for _, v := range []any{"x", 1, 1.5, true, time.Unix(1, 0)} {
		f.Add(encode(f, v))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v := engine.DecodeAttribute(b); v == nil {
			t.Error("nil")
		}
	})
}
