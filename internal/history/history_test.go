package history_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stepward/stepward/internal/engine"
	"github.com/stepward/stepward/internal/history"
)

var example = &history.History{
	Run: "run_0000000000002", Origin: "run_0000000000001", Tenant: "acme", Workflow: "shop", Version: "2", State: "failed", Tick: time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC),
	Input: []byte(`{"n":1}`), Error: []byte(`{"message":"no"}`),
	Steps: []engine.Checkpoint{
		{Seq: 0, Done: 2, Key: "cancel:"},
		{Seq: 1, Done: 1, Key: "charge", Attempt: 3, InputHash: 1<<63 + 1, Output: []byte(`"a"`)},
		{Seq: 4, Done: 3, Key: "page[2]/check", Attempt: 1, Error: []byte(`{"message":"x"}`)},
	},
}

const document = `{
  "stepward_history": 1,
  "run": "run_0000000000002",
  "origin": "run_0000000000001",
  "tenant": "acme",
  "workflow": "shop",
  "version": "2",
  "state": "failed",
  "tick": "2026-03-29T01:00:00Z",
  "input": {
    "n": 1
  },
  "error": {
    "message": "no"
  },
  "steps": [
    {"seq":0,"done":2,"key":"cancel:"},
    {"seq":1,"done":1,"key":"charge","attempt":3,"input_hash":"8000000000000001","output":"a"},
    {"seq":4,"done":3,"key":"page[2]/check","attempt":1,"error":{"message":"x"}}
  ]
}
`

// A step is a line, and nothing changes on the way out and in.
func TestDocument(t *testing.T) {
	data, err := example.Marshal()
	if err != nil || string(data) != document {
		t.Fatalf("got %v\n%s", err, data)
	}
	back, err := history.Parse(data)
	if err != nil || !reflect.DeepEqual(back.Steps, example.Steps) {
		t.Fatalf("got %v, %+v", err, back)
	}
	if again, err := back.Marshal(); err != nil || string(again) != document {
		t.Errorf("again: %v\n%s", err, again)
	}
	bad := *example
	bad.Steps = []engine.Checkpoint{{Seq: 1, Done: 1, Key: "charge", Output: []byte("{")}}
	if _, err := bad.Marshal(); err == nil || !strings.Contains(err.Error(), "output of charge") {
		t.Errorf("an output that is no JSON: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, change := range map[string][2]string{
		"no JSON":     {"{\n", "[\n"},
		"state":       {`"failed"`, `"asleep"`},
		"workflow":    {`"shop"`, `""`},
		"order":       {`"seq":4`, `"seq":1`},
		"done":        {`"done":3`, `"done":2`},
		"done 0":      {`"done":3`, `"done":0`},
		"tick":        {"-29T", "-32T"},
		"no key":      {`"charge"`, `""`},
		"hash":        {`"8000000000000001"`, `"x"`},
		"negative":    {`"seq":0`, `"seq":-1`},
		"no seq type": {`"seq":0`, `"seq":"0"`},
	} {
		if _, err := history.Parse([]byte(strings.Replace(document, change[0], change[1], 1))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	_, err := history.Parse([]byte(strings.Replace(document, `"stepward_history": 1`, `"stepward_history": 2`, 1)))
	if other := (*history.FormatError)(nil); !errors.As(err, &other) || other.Format != 2 {
		t.Errorf("another format: %v", err)
	}
}

// Whatever is parsed can be written, and is the same when it is read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(document))
	f.Add([]byte(`{"stepward_history":1,"workflow":"w","state":"live","input":null,"steps":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := history.Parse(data)
		if err != nil {
			return
		}
		out, err := h.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := history.Parse(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if twice, err := again.Marshal(); err != nil || string(twice) != string(out) {
			t.Fatalf("%v\n%s\n%s", err, out, twice)
		}
	})
}
