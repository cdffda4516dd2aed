package nsroot

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/fdpass"
	"github.com/stepward/stepward/internal/layers"
)

// pair returns both ends, the inner one as the process inside has it.
func pair(t testing.TB) (worker, inside *Control) {
	t.Helper()
	worker, theirs, err := NewControl()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	fd, err := unix.Dup(int(theirs.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := fdpass.Open(fd)
	if err != nil {
		t.Fatal(err)
	}
	inside = &Control{conn}
	t.Cleanup(func() { worker.Close(); inside.Close() })
	return worker, inside
}

// The life of a sandbox's control socket.
func TestControl(t *testing.T) {
	worker, inside := pair(t)
	want := Setup{
		TokenHash: make([]byte, 32), OrphanAfter: time.Minute, Without: layers.Seccomp, Disk: 1 << 20, PIDs: 9, OpenFiles: 8,
	}
	if err := worker.Send(want); err != nil {
		t.Fatal(err)
	}
	got, err := inside.Receive()
	if err != nil || got.OrphanAfter != time.Minute || got.Without != layers.Seccomp || got.PIDs != 9 {
		t.Errorf("received %+v, %v", got, err)
	}
	if err := inside.Ready(Facts{Landlock: 6, Seccomp: true}); err != nil {
		t.Error(err)
	}
	if f, err := worker.Wait(); err != nil || f != (Facts{Landlock: 6, Seccomp: true}) {
		t.Errorf("facts %+v, %v", f, err)
	}

	for range 3 { // each connection stands alone
		ours, err := worker.Dial()
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := inside.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(ours, "hello"); err != nil {
			t.Error(err)
		}
		ours.Close()
		if got, err := io.ReadAll(theirs); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		theirs.Close()
	}
	worker.Close()
	if _, err := inside.Accept(); !errors.Is(err, io.EOF) {
		t.Errorf("after the worker's end closed: %v", err)
	}
}

func TestControlFails(t *testing.T) {
	worker, inside := pair(t)
	inside.Fail(errors.New("no luck"))
	inside.Close()
	if f, err := worker.Wait(); err != nil || f.Error != "no luck" {
		t.Errorf("facts %+v, %v", f, err)
	}
	if _, err := worker.Wait(); err == nil {
		t.Error("facts from an end that has closed")
	}

	worker, inside = pair(t)
	if err := worker.Send(Setup{TokenHash: []byte("short")}); err != nil {
		t.Fatal(err)
	}
	if _, err := inside.Receive(); err == nil {
		t.Error("a setup without a token hash was taken: any token would do")
	}
}

// What arrives without a descriptor is no connection, and harms none.
func TestAcceptIgnores(t *testing.T) {
	worker, inside := pair(t)
	if _, err := worker.conn.Write([]byte("noise")); err != nil {
		t.Fatal(err)
	}
	ours, err := worker.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := inside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
}

// The root file system holds no secret of the host, and says nothing of it.
func TestSystemFiles(t *testing.T) {
	for _, f := range etc {
		for _, bad := range []string{"shadow", "passwd", "group", "ssh", "sudoers", "machine-id", "hostname", "resolv", "private"} {
			if strings.Contains(f, bad) {
				t.Errorf("/etc/%s is shown", f)
			}
		}
	}
	host, _ := os.Hostname()
	for name, text := range Generated {
		if host != "" && host != "sandbox" && strings.Contains(text, host) {
			t.Errorf("/etc/%s tells the host's name", name)
		}
	}
}

// FuzzFacts reads what the process inside may say: nothing of it is trusted.
func FuzzFacts(f *testing.F) {
	for _, s := range []string{`{"Landlock":6,"Seccomp":true}`, `{"Error":"x"}`, `{}`, `[`, `{"Landlock":1e99}`, strings.Repeat("[", 2000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 || len(raw) > 32<<10 {
			return
		}
		worker, inside := pair(t)
		if _, err := inside.conn.Write(raw); err != nil {
			t.Fatal(err)
		}
		got, err := worker.Wait()
		var want Facts
		if len(raw) > 16<<10 { // cut off
			return
		}
		if werr := json.Unmarshal(raw, &want); (werr == nil) != (err == nil) || err == nil && got != want {
			t.Errorf("%q: %+v, %v", raw, got, err)
		}
		worker.Close()
		inside.Close()
	})
}
