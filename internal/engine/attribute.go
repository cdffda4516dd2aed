package engine

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

const maxAttributeBytes = 200

// The types of attributes: the first byte of an encoded value.
const (
	kindBool   = 'b'
	kindFloat  = 'f'
	kindInt    = 'i'
	kindString = 's'
	kindTime   = 't'
)

// EncodeAttribute writes the value of an Attribute so that the order of bytes is that of the
// values. The reason says what is wrong with it.
func EncodeAttribute(v any) (b []byte, reason string) {
	number := func(kind byte, n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{kind}, n) }
	const sign = 1 << 63
	if at, ok := v.(time.Time); ok {
		if first, last := time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64); at.Before(first) || at.After(last) {
			return nil, fmt.Sprintf("%v is not within the years 1678 to 2262", at)
		}
		return number(kindTime, uint64(at.UnixNano())^sign), ""
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.String:
		s := r.String()
		switch {
		case len(s) > maxAttributeBytes:
			return nil, fmt.Sprintf("%d bytes, the limit is %d", len(s), maxAttributeBytes)
		case strings.ContainsRune(s, 0) || !utf8.ValidString(s):
			return nil, "want UTF-8 without NUL"
		}
		return append([]byte{kindString}, s...), ""
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return number(kindInt, uint64(r.Int())^sign), ""
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if r.Uint() > math.MaxInt64 {
			return nil, fmt.Sprintf("%d does not fit an int64", r.Uint())
		}
		return number(kindInt, r.Uint()^sign), ""
	case reflect.Float32, reflect.Float64:
		f := r.Float()
		if math.IsNaN(f) {
			return nil, "NaN is equal to nothing"
		}
		bits := math.Float64bits(f + 0) // -0 is 0
		if bits&sign != 0 {
			bits = ^bits
		} else {
			bits |= sign
		}
		return number(kindFloat, bits), ""
	case reflect.Bool:
		if r.Bool() {
			return []byte{kindBool, 1}, ""
		}
		return []byte{kindBool, 0}, ""
	default:
		return nil, fmt.Sprintf("a %T is no string, integer, float64, bool or time.Time", v)
	}
}

// DecodeAttribute returns the value of stored bytes; what it does not know, as
// they are.
func DecodeAttribute(b []byte) any {
	const sign = 1 << 63
	switch {
	case len(b) == 0:
	case b[0] == kindString:
		return string(b[1:])
	case b[0] == kindBool && len(b) == 2:
		return b[1] == 1
	case len(b) == 9:
		n := binary.BigEndian.Uint64(b[1:])
		switch b[0] {
		case kindInt:
			return int64(n ^ sign)
		case kindTime:
			return time.Unix(0, int64(n^sign)).UTC()
		case kindFloat:
			if n&sign != 0 {
				return math.Float64frombits(n &^ sign)
			}
			return math.Float64frombits(^n)
		}
	}
	return b
}
