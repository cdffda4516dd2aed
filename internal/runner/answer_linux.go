package runner

import (
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/redact"
	"github.com/stepward/stepward/internal/rpc"
)

// An answer passes on what a guest step writes: an encoded GuestAnswer, field by field.
// While the sandbox holds secrets, each field is taken whole, and leaves without them.
type answer struct {
	set  *redact.Set
	to   io.Writer
	buf  []byte // the begin of a field
	left int    // bytes of one that are passed on as they come
	lost bool   // it was no such message: nothing more is passed on
}

func (a *answer) Write(p []byte) (int, error) {
	size := len(p)
	for len(p) > 0 && !a.lost {
		if n := min(a.left, len(p)); n > 0 {
			if _, err := a.to.Write(p[:n]); err != nil {
				return 0, err
			}
			a.left -= n
			p = p[n:]
			continue
		}
		a.buf = append(a.buf, p...)
		p = nil
		for len(a.buf) > 0 {
			n, err := a.field()
			if err != nil {
				return 0, err
			}
			if n == 0 {
				break
			}
			a.buf = a.buf[n:]
		}
		if len(a.buf) == 0 {
			a.buf = nil // it was as large as the answer
		}
	}
	return size, nil
}

// field passes on the field that buf begins with, and returns its size, or 0 if there is
// too little of it.
func (a *answer) field() (int, error) {
	number, kind, tag := protowire.ConsumeTag(a.buf)
	if tag < 0 {
		return a.more(tag)
	}
	if kind != protowire.BytesType {
		n := protowire.ConsumeFieldValue(number, kind, a.buf[tag:])
		if n < 0 {
			return a.more(n)
		}
		_, err := a.to.Write(a.buf[:tag+n])
		return tag + n, err
	}
	length, head := protowire.ConsumeVarint(a.buf[tag:])
	if head < 0 {
		return a.more(head)
	}
	if length > rpc.MaxMessage {
		a.lost = true
		return 0, nil
	}
	begin, end := tag+head, tag+head+int(length)
	if a.set.Empty() { // it need not be here
		n := min(end, len(a.buf))
		a.left = end - n
		_, err := a.to.Write(a.buf[:n])
		return n, err
	}
	if len(a.buf) < end {
		return 0, nil
	}
	_, err := a.to.Write(a.redact(number, a.buf[begin:end]))
	return end, err
}

// more waits for the rest of what was cut off. Anything else is no message.
func (a *answer) more(code int) (int, error) {
	a.lost = !errors.Is(protowire.ParseError(code), io.ErrUnexpectedEOF)
	return 0, nil
}

// redact returns a field without secrets.
func (a *answer) redact(number protowire.Number, content []byte) []byte {
	single := protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), content)
	var m rpc.GuestAnswer
	if proto.Unmarshal(single, &m) != nil {
		return nil // neither could the worker read it
	}
	var err error
	if m.Output, err = a.set.JSON(m.Output); err != nil {
		m.Output, m.Failure = nil, &rpc.GuestFailure{Message: "the step's result is refused: " + err.Error(), Type: "redact.FoundError", Permanent: true}
	}
	if m.Details, err = a.set.JSON(m.Details); err != nil {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), nil) // still a heartbeat
	}
	if f := m.Failure; f != nil {
		f.Message, f.Type, f.Stack = uncut(f.Message, a.set.Redact), a.set.Redact(f.Type), uncut(f.Stack, a.set.Redact)
	}
	if s := m.Shown; s != nil {
		s.Name = a.set.Redact(s.Name)
		if s.Value, err = a.set.JSON(s.Value); err != nil {
			s.Value = []byte("null")
		}
	}
	out, err := proto.Marshal(&m)
	if err != nil {
		return nil
	}
	return out
}
