package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/stepward/stepward/workflow"
)

// screen prints lines that stay and, on a terminal, lines below them that
// change. It may be used from any goroutine.
type screen struct {
	mu    sync.Mutex
	out   io.Writer
	fd    int // -1 when out is no terminal
	live  []string
	drawn int
	rest  []byte // an unfinished line of somebody's log
}

func newScreen(f *os.File) *screen {
	s := &screen{out: f, fd: -1}
	if term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.fd = int(f.Fd())
	}
	return s
}

// printf prints lines that stay.
func (s *screen) printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draw(fmt.Sprintf(format, args...) + "\n")
}

// Write prints whole lines of a log.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, p...)
	if end := bytes.LastIndexByte(s.rest, '\n') + 1; end > 0 {
		s.draw(string(s.rest[:end]))
		s.rest = append([]byte(nil), s.rest[end:]...)
	}
	return len(p), nil
}

// setLive replaces the lines that change. Without a terminal there are none.
func (s *screen) setLive(lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		s.live = lines
		s.draw("")
	}
}

func (s *screen) close() { s.setLive(nil) }

// draw puts the text where the live lines began, and them below it.
func (s *screen) draw(text string) {
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", s.drawn) // up, and clear to the end
	}
	b.WriteString(text)
	width, height := 80, 24
	if s.fd >= 0 {
		if w, h, err := term.GetSize(s.fd); err == nil && w > 0 && h > 1 {
			width, height = w, h
		}
	}
	s.drawn = min(len(s.live), height-1)
	for _, line := range s.live[:s.drawn] {
		if r := []rune(line); len(r) >= width { // a line that wraps could not be cleared
			line = string(r[:width-1])
		}
		b.WriteString(line + "\n")
	}
	_, _ = io.WriteString(s.out, b.String())
}

// timeline prints what was done, where, and when, in the order in which it began.
func (s *screen) timeline(id workflow.RunID, l look) {
	s.setLive(nil)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nSTEP\tMODE\tRAN ON\tATTEMPT\tBEGAN\tTOOK")
	for _, st := range byStart(l.steps) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t+%.2fs\t%s\n", st.Step, st.Mode, where(st), st.Attempt,
			max(0, st.Started.Sub(id.Time()).Seconds()), outcome(l, st))
	}
	_ = w.Flush() // into memory
	s.printf("%s", strings.TrimSuffix(b.String(), "\n"))
	s.printf("%s after %.2fs, in %s", l.run.State, l.run.Finished.Sub(id.Time()).Seconds(), count(l.run.Turns, "turn"))
}

// where says on which worker, and in what, an attempt ran.
func where(st workflow.StepStatus) string {
	on := st.Worker
	if on == "" {
		on = "?"
	}
	if st.Backend == "" {
		return on
	}
	return on + ", " + st.Backend // a sandbox, as the mode beside it says
}

func outcome(l look, st workflow.StepStatus) string {
	switch {
	case lost(l, st):
		return "lost with its worker"
	case st.Err != nil:
		return round(st.Elapsed).String() + ", failed: " + oneLine(st.Err.Message)
	case !st.Recorded:
		return "goes on"
	}
	return round(st.Elapsed).String()
}

func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// count says "1 page" and "2 pages".
func count(n int, word string) string {
	if n != 1 {
		word += "s"
	}
	return fmt.Sprintf("%d %s", n, word)
}
