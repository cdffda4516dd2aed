// Package tunnel carries connections of programs in a sandbox to the worker,
// each over a connection of its own that the worker has dialled: so each has the
// flow control of a socket, one that stalls holds up nothing else, and the kernel
// moves the bytes where it can.
//
// The worker keeps some connections offered. One begins as a request of HTTP/1.1
// that asks to be switched to this protocol, with the sandbox's token. When a
// program wants to connect, the tool runner takes one that is offered and sends a
// [Request]. The worker answers with a [Verdict], and bytes follow if that allows
// it.
package tunnel

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// A Request says where a program wants to connect to.
type Request struct {
	Host string // as the program wrote it: nothing has been checked
	Port int
}

// A Verdict is the worker's answer. The zero value allows.
type Verdict struct {
	Denied string `json:",omitempty"` // why it is not allowed
	Failed string `json:",omitempty"` // why it could not be done, though allowed
}

// Err returns nil, a [DeniedError] or a [FailedError].
func (v Verdict) Err() error {
	switch {
	case v.Denied != "":
		return DeniedError(v.Denied)
	case v.Failed != "":
		return FailedError(v.Failed)
	}
	return nil
}

// A DeniedError says why a connection is not allowed.
type DeniedError string

func (e DeniedError) Error() string { return string(e) }

// A FailedError says why a connection that is allowed could not be made.
type FailedError string

func (e FailedError) Error() string { return string(e) }

// Path is what the request for a tunnel asks for.
const Path = "/tunnel"

const (
	protocol    = "stepward-tunnel"
	headerToken = "Stepward-Token"
	headerEpoch = "Stepward-Epoch"
	headerFrame = "Stepward-Framed"
)

// maxMessage bounds an encoded Request or Verdict.
const maxMessage = 16 << 10

// Offer makes a tunnel of a connection that was just dialled. It returns when
// the runner has taken it.
func Offer(c net.Conn, token []byte, epoch int64) (net.Conn, error) {
	_, half := bare(c).(halfCloser)
	_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: runner\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %x\r\n%s: %d\r\n%s: %t\r\n\r\n",
		Path, protocol, headerToken, token, headerEpoch, epoch, headerFrame, !half)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the tool runner refuses a tunnel: %s", resp.Status)
	}
	widen(c)
	c = &behind{Conn: c, r: r}
	if !half {
		c = &framed{Conn: c}
	}
	return c, nil
}

// behind reads what the reader of the handshake has taken already.
type behind struct {
	net.Conn
	r *bufio.Reader
}

// NetConn returns the connection behind, once nothing is left to read before it.
func (b *behind) NetConn() net.Conn {
	if b.r.Buffered() > 0 {
		return nil
	}
	return b.Conn
}

func (b *behind) Read(p []byte) (int, error) {
	if b.r.Buffered() > 0 {
		return b.r.Read(p)
	}
	return b.Conn.Read(p)
}

// Credentials returns what the request for a tunnel presents.
func Credentials(r *http.Request) (token []byte, epoch int64, err error) {
	if r.Header.Get("Upgrade") != protocol {
		return nil, 0, errors.New("not a request for a tunnel")
	}
	if token, err = hex.DecodeString(r.Header.Get(headerToken)); err == nil {
		epoch, err = strconv.ParseInt(r.Header.Get(headerEpoch), 10, 64)
	}
	return token, epoch, err
}

// Accept takes the connection of the request out of its server's hands and makes
// a tunnel of it.
func Accept(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	if err == nil && buf.Reader.Buffered() > 0 {
		err = errors.New("bytes came before the tunnel")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	widen(c)
	if r.Header.Get(headerFrame) == "true" {
		c = &framed{Conn: c}
	}
	return c, nil
}

// Ask sends the request over a tunnel and returns the worker's verdict.
func Ask(c net.Conn, req Request) (v Verdict, err error) {
	if err = write(c, req); err == nil {
		err = read(c, &v)
	}
	return v, err
}

// Asked waits for the request of a tunnel.
func Asked(c net.Conn) (req Request, err error) {
	err = read(c, &req)
	return req, err
}

// Answer sends the verdict.
func Answer(c net.Conn, v Verdict) error { return write(c, v) }

func write(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(raw) > maxMessage {
		return fmt.Errorf("a message of %d bytes", len(raw))
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...))
	return err
}

func read(r io.Reader, v any) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint16(head[:])
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes", n)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}
