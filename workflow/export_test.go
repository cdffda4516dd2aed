package workflow

func EncodeAttribute(v any) []byte {
	b, _ := encodeAttribute(v)
	return b
}

var DecodeAttribute = decodeAttribute
