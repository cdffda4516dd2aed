package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxFrame bounds what one frame holds.
const maxFrame = 64 << 10

// framed is a connection whose two directions can be closed apart, over one where
// they cannot, such as the standard input and output of a process in a container.
// A frame is its length in four bytes, and as many bytes. An empty one is the end.
type framed struct {
	net.Conn

	left uint32 // of the frame that is being read; used by the one reader
	end  bool

	mu     sync.Mutex
	closed bool // for writing
}

func (f *framed) Read(p []byte) (int, error) {
	if f.end {
		return 0, io.EOF
	}
	for f.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(f.Conn, head[:]); err != nil {
			return 0, cut(err)
		}
		f.left = binary.BigEndian.Uint32(head[:])
		if f.left > maxFrame {
			return 0, fmt.Errorf("a frame of %d bytes", f.left)
		}
		if f.left == 0 {
			f.end = true
			return 0, io.EOF
		}
	}
	n, err := f.Conn.Read(p[:min(len(p), int(f.left))])
	f.left -= uint32(n)
	return n, cut(err)
}

// cut tells a connection that broke from one whose end was said.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (f *framed) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, net.ErrClosed
	}
	frame := make([]byte, 0, 4+min(len(p), maxFrame))
	for len(p) > 0 {
		part := p[:min(len(p), maxFrame)]
		frame = append(binary.BigEndian.AppendUint32(frame[:0], uint32(len(part))), part...)
		if _, err := f.Conn.Write(frame); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// CloseWrite ends this direction.
func (f *framed) CloseWrite() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	_, err := f.Conn.Write(make([]byte, 4))
	return err
}
