package importcheck

import (
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stepward/stepward/"

// opening are the ways in which a package could open a sealed secret itself, or would
// decide about one.
var opening = []string{
	"crypto/hpke",
	"github.com/cedar-policy/...",
	"filippo.io/age/...",
	"github.com/hashicorp/vault/...",
	module + "identity/broker/...",
	module + "identity/cedar",
	module + "identity/filestore/...",
	module + "identity/vault/...",
	module + "identity/sops/...",
	module + "internal/envelope/open",
	module + "internal/envelope/seal",
	module + "internal/wrapped",
}

// clientSide is what an application links to define and enqueue. Execution is
// not in it: package sandbox has Spec, the Backend seam and the handle of a
// sandbox, but no backend that could start one.
var clientSide = []string{
	module + "workflow/...",
	module + "sandbox",
	module + "audit",
	module + "identity",
	module + "internal/batch",
	module + "internal/binding",
	module + "internal/db",
	module + "internal/egress",
	module + "internal/engine",
	module + "internal/enqueue",
	module + "internal/envname",
	module + "internal/history",
	module + "internal/hostport",
	module + "internal/payload",
	module + "internal/rpc",
	module + "internal/rpc/rpcconnect",
	module + "internal/runid",
	module + "internal/schedule",
	module + "internal/tick",
	module + "internal/warm",
	module + "internal/within",
	module + "internal/tunnel",
}

// workerSide is what a worker links beyond that: execution and its default
// backend, and nothing that reads a store or opens an envelope.
var workerSide = append([]string{
	module + "worker",
	module + "sandbox/local",
	module + "internal/beat",
	module + "internal/boottime",
	module + "internal/brokerlink",
	module + "internal/confine",
	module + "internal/envelope",
	module + "internal/fdpass",
	module + "internal/image",
	module + "internal/layers",
	module + "internal/nsroot",
	module + "internal/program",
	module + "internal/redact",
	module + "internal/runner",
	module + "internal/shim",
}, clientSide...)

// vet is for those who develop, and part of no program of theirs.
var vet = []string{module + "workflow/workflowvet/..."}

// I1: the client side cannot execute a step. What an application defines for
// its clients is held to the same list.
func TestClientCannotExecute(t *testing.T) {
	check(t, Rule{
		Packages:   []string{"./workflow/...", "./examples/quickstart/site"},
		Except:     vet,
		Allow:      clientSide,
		DenyDirect: append([]string{"os/exec", "plugin"}, opening...),
	})
}

// I2: no secret store, and no side that opens an envelope, is linked into the client.
func TestClientOpensNoSecret(t *testing.T) {
	check(t, Rule{
		Packages: []string{"./workflow/..."},
		Except:   vet,
		Allow:    clientSide,
		AllowModules: []string{
			"connectrpc.com/connect", "golang.org/x/net", "google.golang.org/protobuf",
			"github.com/cespare/xxhash/v2", "github.com/go-logr/logr", "github.com/go-logr/stdr",
			"github.com/jackc/pgpassfile", "github.com/jackc/pgservicefile", "github.com/jackc/pgx/v5",
			"github.com/jackc/puddle/v2", "github.com/riverqueue/river", "github.com/riverqueue/river/riverdriver",
			"github.com/riverqueue/river/riverdriver/riverpgxv5", "github.com/riverqueue/river/rivershared",
			"github.com/riverqueue/river/rivertype", "github.com/robfig/cron/v3", "github.com/tidwall/gjson", "github.com/tidwall/match",
			"github.com/tidwall/pretty", "github.com/tidwall/sjson", "go.opentelemetry.io/auto/sdk",
			"go.opentelemetry.io/otel", "go.opentelemetry.io/otel/log", "go.opentelemetry.io/otel/metric", "go.opentelemetry.io/otel/trace",
			"go.uber.org/goleak", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/text",
		},
		DenyDirect: opening,
	})
}

// I2: neither does the worker.
func TestWorkerOpensNoSecret(t *testing.T) {
	check(t, Rule{Packages: []string{"./worker", "./sandbox/launcher"}, Allow: append([]string{module + "internal/launch"}, workerSide...), DenyDirect: append([]string{"golang.org/x/tools/..."}, opening...)})
}

// A shim waits for what it imports, and for most packages of the program whose names come before those: path/filepath, say, is late.
func TestShimIsEarly(t *testing.T) {
	check(t, Rule{Packages: []string{"./internal/shim"}, Allow: []string{module + "internal/..."}, DenyDirect: []string{"net/...", "path/filepath", "regexp/..."}})
}

func check(t *testing.T, rule Rule) {
	t.Helper()
	findings, err := Check("../..", rule)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Error(f)
	}
}

// TestFindsViolations shows that the check can fail: package opener breaks
// each part of a rule.
func TestFindsViolations(t *testing.T) {
	findings, err := Check("../..", Rule{
		Packages:     []string{"./internal/importcheck/testdata/opener"},
		Allow:        []string{module + "workflow/..."},
		AllowModules: []string{},
		DenyDirect:   append([]string{"os/exec"}, opening...),
	})
	if err != nil {
		t.Fatal(err)
	}
	self := module + "internal/importcheck/testdata/opener"
	for _, want := range []string{
		self + " imports crypto/hpke",
		self + " imports " + module + "internal/envelope/open",
		"links " + module + "internal/importcheck (" + self + " > " + module + "internal/importcheck)",
		module + "internal/importcheck imports os/exec",
		"links module golang.org/x/sys",
	} {
		if !slices.ContainsFunc(findings, func(f string) bool { return strings.HasPrefix(f, want) }) {
			t.Errorf("not found: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("found:\n%s", strings.Join(findings, "\n"))
	}
}
