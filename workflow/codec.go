package workflow

import (
	"encoding"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"reflect"
)

// encode writes a value as JSON and checks its size. A MarshalJSON that panics
// is an error of the value: the turn is locked here.
func encode(what string, v any, limit int) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, &ValueError{Kind: "encode", What: what, Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	b, err = json.Marshal(v)
	if err != nil {
		return nil, &ValueError{Kind: "encode", What: what, Err: err}
	}
	if limit > 0 && len(b) > limit {
		return nil, &ValueError{Kind: "size", What: what, Bytes: len(b), Limit: limit}
	}
	return b, nil
}

func decode(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return &ValueError{Kind: "decode", What: what, Err: err}
	}
	return nil
}

// hashInput is kept beside a checkpoint to find inputs that changed. It guards
// against mistakes, not against an adversary.
func hashInput(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b) // never fails
	return h.Sum64()
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// checkType finds what JSON cannot carry: channels, functions, complex numbers,
// maps by what is no text or integer, and structs of which every field is unexported, which would arrive empty.
func checkType(t reflect.Type, path string, seen map[reflect.Type]bool) error {
	if seen[t] {
		return nil
	}
	seen[t] = true
	if t.Implements(jsonMarshaler) || t.Implements(textMarshaler) ||
		reflect.PointerTo(t).Implements(jsonMarshaler) || reflect.PointerTo(t).Implements(textMarshaler) {
		return nil
	}
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return fmt.Errorf("%s is a %s, which JSON cannot carry", path, t)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return checkType(t.Elem(), path, seen)
	case reflect.Map:
		switch k := t.Key(); {
		case k.Kind() == reflect.String, k.Kind() >= reflect.Int && k.Kind() <= reflect.Uintptr, k.Implements(textMarshaler):
		default:
			return fmt.Errorf("%s is a %s, and a JSON object's key is no %s", path, t, k)
		}
		return checkType(t.Elem(), path+"[]", seen)
	case reflect.Struct:
		exported := 0
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Tag.Get("json") == "-" || !f.IsExported() && !f.Anonymous {
				continue
			}
			exported++
			if err := checkType(f.Type, path+"."+f.Name, seen); err != nil {
				return err
			}
		}
		if exported == 0 && t.NumField() > 0 {
			return fmt.Errorf("%s is a %s without exported fields: its value would be lost", path, t)
		}
	default:
	}
	return nil
}
