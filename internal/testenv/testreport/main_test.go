package main

import (
	"encoding/json"
	"fmt"
	"slices"
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
			want: "loud\n0 passed, 1 failed, 0 skipped\n\n=== FAILED: p.A\nloud\n",
		},
		"broken build": {
			in:   `{"ImportPath":"p","Action":"build-output","Output":"no\n"}` + "\n" + `{"ImportPath":"p","Action":"build-fail"}` + "\n",
			want: "no\n0 passed, 0 failed, 0 skipped\n\n=== FAILED: p\nno\n",
		},
		"died": {
			in:   `{"Action":"output","Package":"p","Test":"A","Output":"half\n"}` + "\n",
			want: "--- UNFINISHED: p.A\nhalf\n0 passed, 0 failed, 0 skipped\n\n=== FAILED: p.A\nhalf\n",
		},
		"failed without a test": {
			in:   `{"Action":"output","Package":"p","Output":"exit status 3\n"}` + "\n" + `{"Action":"fail","Package":"p"}` + "\n",
			want: "exit status 3\n0 passed, 0 failed, 0 skipped\n\n=== FAILED: p\nexit status 3\n",
		},
	} {
		var out strings.Builder
		if ok := report(strings.NewReader(test.in), &out); ok != test.ok || out.String() != test.want {
			t.Errorf("%s: ok %v, got:\n%s", name, ok, out.String())
		}
	}
}

// The end of a report names each test that failed and has its last lines, but no test
// of which only a part failed.
func TestFailures(t *testing.T) {
	var in, out strings.Builder
	say := func(pkg, test, action, output string) {
		raw, err := json.Marshal(event{Action: action, Package: pkg, Test: test, Output: output})
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(raw, '\n'))
	}
	fail := func(pkg, test string, lines ...string) {
		say(pkg, test, "output", "=== RUN   "+test+"\n")
		for _, line := range lines {
			say(pkg, test, "output", line+"\n")
		}
		say(pkg, test, "output", "--- FAIL: "+test+" (0.00s)\n")
		say(pkg, test, "fail", "")
	}
	var long []string
	for i := range 100 {
		long = append(long, fmt.Sprint("line ", i))
	}
	fail("b", "A/inner/most", long...)
	fail("b", "A/inner")
	fail("b", "A", "    a_test.go:9: of its own")
	say("b", "", "output", "FAIL\n")
	say("b", "", "fail", "")
	fail("a", "Panics", slices.Concat(long, []string{"panic: why", ""}, long)...)
	say("a", "", "fail", "")
	if report(strings.NewReader(in.String()), &out) {
		t.Error("it is a success")
	}
	_, got, _ := strings.Cut(out.String(), "0 passed, 4 failed, 0 skipped\n")
	want := "\n=== FAILED: a.Panics\npanic: why\n\n" + strings.Join(long[:38], "\n") + "\n" +
		"\n=== FAILED: b.A/inner/most\n" + strings.Join(long[61:], "\n") + "\n--- FAIL: A/inner/most (0.00s)\n" +
		"\n=== FAILED: b.A\n    a_test.go:9: of its own\n--- FAIL: A (0.00s)\n"
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
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
