package runner

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/stepward/stepward/internal/rpc"
)

// pause is how long nothing has to come before the last few bytes of an output are
// passed on, though a secret may begin with them: a person waits for a prompt.
const pause = 50 * time.Millisecond

// pump copies an output of the process to its log, without secrets.
func (x *execs) pump(r *os.File, e *exec, s rpc.Output_Stream) {
	defer r.Close()
	l := logWriter{&e.out[s]}
	if s == rpc.Output_ANSWER {
		_, _ = io.Copy(&answer{set: &x.redactor, to: l}, r) // ends with the output, or when its log is closed
		return
	}
	w := x.redactor.Writer(l)
	buf := make([]byte, 32<<10)
	idle := false
	for {
		timed := !idle && w.Held() > 0 && r.SetReadDeadline(time.Now().Add(pause)) == nil
		n, err := r.Read(buf)
		if timed {
			_ = r.SetReadDeadline(time.Time{}) // as it was set
		}
		if idle = errors.Is(err, os.ErrDeadlineExceeded); idle {
			err = w.Idle()
		} else if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			_ = w.Close() // fails when the log is closed
			return
		}
	}
}

// A logWriter writes to a log until that is closed.
type logWriter struct{ l *outlog }

func (w logWriter) Write(p []byte) (int, error) {
	if !w.l.write(p) {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}
