package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	for name, test := range map[string]struct {
		in, want string
		ok       bool
	}{
		"skip": {
			in: `{"Action":"output","Package":"p","Test":"A","Output":"=== RUN   A\n"}
{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:3: docker: none here\n"}
{"Action":"output","Package":"p","Test":"A","Output":"--- SKIP: A (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`,
			want: "ok  \tp\t0.1s\n\nSkipped:\n  p.A: a_test.go:3: docker: none here\n1 passed, 0 failed, 1 skipped\n",
			ok:   true,
		},
		"failure": {
			in: `{"Action":"output","Package":"p","Test":"A","Output":"loud\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}
`,
			want: "loud\n0 passed, 1 failed, 0 skipped\n",
		},
		"broken build": {
			in:   `{"ImportPath":"p","Action":"build-output","Output":"no\n"}` + "\n" + `{"ImportPath":"p","Action":"build-fail"}` + "\n",
			want: "no\n0 passed, 0 failed, 0 skipped\n",
		},
		"died": {
			in:   `{"Action":"output","Package":"p","Test":"A","Output":"half\n"}` + "\n",
			want: "--- UNFINISHED: p.A\nhalf\n0 passed, 0 failed, 0 skipped\n",
		},
	} {
		var out strings.Builder
		if ok := report(strings.NewReader(test.in), &out); ok != test.ok || out.String() != test.want {
			t.Errorf("%s: ok %v, got:\n%s", name, ok, out.String())
		}
	}
}

// What two processes say is not mixed within a line, however they write it.
func TestLineWriter(t *testing.T) {
	var out strings.Builder
	a, b := &lineWriter{to: &out}, &lineWriter{to: &out}
	for _, w := range []struct {
		w *lineWriter
		s string
	}{{a, "on"}, {b, "two\nth"}, {a, "e\n"}, {b, "ree\nfour\n"}} {
		if n, err := w.w.Write([]byte(w.s)); n != len(w.s) || err != nil {
			t.Error(n, err)
		}
	}
	if got, want := out.String(), "two\none\nthree\nfour\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
