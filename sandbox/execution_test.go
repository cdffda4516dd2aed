package sandbox

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/stepward/stepward/internal/rpc"
)

// FuzzEvents follows events of any content, as a tool runner that was taken over
// could send them: no panic, no more kept of an answer than was sent, and an end
// is success only if it says so.
func FuzzEvents(f *testing.F) {
	output := func(s rpc.Output_Stream, offset, truncated int64, data string) *rpc.ExecEvent {
		return &rpc.ExecEvent{Event: &rpc.ExecEvent_Output{Output: &rpc.Output{
			Stream: s, Offset: offset, Truncated: truncated, Data: []byte(data),
		}}}
	}
	end := func(e *rpc.End) *rpc.ExecEvent { return &rpc.ExecEvent{Event: &rpc.ExecEvent_End{End: e}} }
	for _, ev := range []*rpc.ExecEvent{
		output(rpc.Output_STDOUT, 0, 0, "out"), output(rpc.Output_ANSWER, 7, 7, "x"), output(99, -1, -5, ""),
		output(rpc.Output_STDERR, 1<<62, 1<<62, "err"), end(&rpc.End{}), end(&rpc.End{Code: -1, Signal: "SIGKILL", Killed: true}),
		end(&rpc.End{StartErrno: 2, StartError: "none"}), end(&rpc.End{Lost: true}), {},
	} {
		raw, err := proto.Marshal(ev)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var ev rpc.ExecEvent
		if proto.Unmarshal(raw, &ev) != nil {
			return
		}
		var out bytes.Buffer
		x := &execution{sb: &Sandbox{}, name: "x", req: &rpc.ExecRequest{}, stdout: &out}
		switch ev := ev.Event.(type) {
		case *rpc.ExecEvent_Output:
			x.output(t.Context(), ev.Output)
			x.output(t.Context(), ev.Output)
			if len(x.answer) > 2*len(raw) || out.Len() > 2*len(raw)+200 {
				t.Errorf("%d bytes of event left %d and %d", len(raw), len(x.answer), out.Len())
			}
		case *rpc.ExecEvent_End:
			e := ev.End
			err := x.result(t.Context(), e)
			if good := e.Code == 0 && e.Signal == "" && e.StartError == "" && !e.Lost; good != (err == nil) {
				t.Errorf("%v gives %v", e, err)
			}
		}
	})
}

// Why a command did not start can be asked of the error: of the numbers that Linux
// has for it, wherever the worker is.
func TestStartErrors(t *testing.T) {
	for errno, want := range map[int32]error{
		2: fs.ErrNotExist, 13: fs.ErrPermission, 7: nil, 95: errors.ErrUnsupported, 11: nil, 0: nil,
	} {
		x := &execution{sb: &Sandbox{}, name: "tool"}
		err := x.result(t.Context(), &rpc.End{Code: -1, StartErrno: errno, StartError: "it did not start"})
		var ce *CommandError
		if !errors.As(err, &ce) || ce.Command != "tool" || (want != nil && !errors.Is(err, want)) {
			t.Errorf("errno %d: %v, want a CommandError that is %v", errno, err, want)
		}
	}
}

// However much is written, a Tail keeps its end and no more than twice of it.
func TestTail(t *testing.T) {
	for _, size := range []int{1, 7, 100, 101, 5000} {
		tail := &Tail{Limit: 100}
		var all []byte
		for i := range 300 {
			p := bytes.Repeat([]byte{byte(i)}, size)
			all = append(all, p...)
			if n, err := tail.Write(p); n != size || err != nil {
				t.Fatal(n, err)
			}
			if want := all[max(0, len(all)-100):]; !bytes.Equal(tail.Bytes(), want) {
				t.Fatalf("after %d writes of %d bytes: %v", i+1, size, tail.Bytes())
			}
		}
		if cap(tail.buf) > 512 {
			t.Errorf("writes of %d bytes: it holds %d", size, cap(tail.buf))
		}
	}
}
