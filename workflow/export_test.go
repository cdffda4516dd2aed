package workflow

func EncodeAttribute(v any) []byte {
	b, _ := encodeAttribute(v)
	return b
}

var DecodeAttribute = decodeAttribute

// Lost is what becomes of an attempt whose sandbox was lost.
var Lost = lost
