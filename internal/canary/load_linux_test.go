package canary_test

import (
	"context"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/workflow"
)

// names are the secrets of a tenant; plain is beside them in all that is said of them, and is none.
var names = []string{"S0", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9"}

const plain = "PLAIN"

// injected is one that enters no sandbox.
const injected = "INJECTED"

var (
	load  = workflow.DurableWorkflow[string, string]{Name: "load"}
	stage = workflow.Progress[string]{Name: "stage"}
	says  = workflow.Progress[[]string]{Name: "says"}
	lines = workflow.Stream[[]string]{Name: "lines"}
	goOn  = workflow.NewSignal[string]("go-on")

	steps = workflow.StepOptions{Mode: workflow.Identity, Secrets: append([]string{plain}, names...), Retry: workflow.Retry{MaxAttempts: 3, Backoff: time.Millisecond}}
	once  = workflow.StepOptions{Mode: workflow.Identity, Secrets: steps.Secrets, Retry: workflow.Retry{MaxAttempts: 2, Backoff: time.Millisecond}}

	leak = workflow.NewStep("leak", leaks, steps)
	dies = workflow.NewStep("dies", leaks, once)
	tool = workflow.NewToolStep("tool", drive, steps)
	keep = workflow.NewToolStep("keep", keeps, workflow.StepOptions{
		Mode: workflow.Identity, Secrets: append([]string{injected}, steps.Secrets...), Retry: workflow.Retry{MaxAttempts: 1},
		Sandbox: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{"example.com:443"}}},
	})
	tell = workflow.NewStep("tell", func(_ context.Context, s []string) (string, error) { return strings.Join(s, "\n"), nil },
		workflow.StepOptions{Mode: workflow.Sandboxed})
	note = workflow.NewStep("note", func(ctx context.Context, s string) (int, error) { // on the worker
		slog.InfoContext(ctx, "note", "said", s)
		trace.SpanFromContext(ctx).AddEvent("note", trace.WithAttributes(attribute.String("said", s)))
		info, _ := workflow.StepInfoFrom(ctx)
		if info.Attempt == 1 {
			return 0, errors.New(s)
		}
		return len(s), nil
	}, workflow.StepOptions{Retry: workflow.Retry{Backoff: time.Millisecond}})

	loadV1 = workflow.Define(load, func(ctx workflow.Context, how string) (string, error) {
		switch how {
		case "panic", "crash", "exit", "error":
			_, err := dies.Run(ctx, how)
			if err == nil {
				return "", errors.New("it went well")
			}
			if _, nerr := note.Run(ctx, err.Error()); nerr != nil {
				return "", nerr
			}
			return "", err
		case "engine":
			return keep.Run(ctx, how)
		case "tool":
			said, err := tool.Run(ctx, how)
			if err != nil {
				return "", err
			}
			_, err = note.Run(ctx, said)
			return said, err
		}
		said, err := leak.Run(ctx, how)
		if err != nil {
			return "", err
		}
		if how == "resume" {
			_, err := goOn.Receive(ctx, 0)
			return said[0], err
		}
		if how != "result" {
			return "", nil
		}
		all, err := tell.Run(ctx, said)
		if err != nil {
			return "", err
		}
		_, err = note.Run(ctx, all)
		return all, err
	}, workflow.Options{Steps: []workflow.Declared{leak, dies, tool, keep, tell, note}})
)

// given returns what this process has of a secret.
func given(name string) string {
	v := os.Getenv(name)
	if strings.HasPrefix(v, "/") {
		if raw, err := os.ReadFile(v); err == nil {
			return string(raw)
		}
	}
	return v
}

// forms are ways in which programs say what they have, all of which redaction is to know.
func forms(v string) (out []string) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	quoted, _ := json.Marshal(v)
	return []string{
		v, "Authorization: Bearer " + v, b64(v), b64("u:" + v), b64("me:" + v), base64.RawURLEncoding.EncodeToString([]byte("you:" + v)), b64(b64(v)),
		hex.EncodeToString([]byte(v)), fmt.Sprintf("%X", v), url.QueryEscape(v), url.PathEscape(v), string(quoted), fmt.Sprintf("%q", v), fmt.Sprintf("%+q", v),
		base32.StdEncoding.EncodeToString([]byte(v)), html.EscapeString(v), fmt.Sprintf("%d", []byte(v)),
	}
}

// all says all secrets in all forms, and the marker beside them.
func all() (out []string) {
	for _, name := range steps.Secrets {
		out = append(out, forms(given(name))...)
	}
	return append(out, strings.Join(os.Environ(), "\n"))
}

// leaks is a guest that is as careless as can be.
func leaks(ctx context.Context, how string) ([]string, error) {
	info, _ := workflow.StepInfoFrom(ctx)
	said := all()
	if given("S0") == "" || given("S9") == "" {
		return nil, workflow.Permanent(errors.New("a secret is missing"))
	}
	fmt.Println(said)
	fmt.Fprintln(os.Stderr, said)
	switch how {
	case "resume":
		return said[:1], nil
	case "result": // one with what is not text is refused
		return said[:len(said)-len(forms("x"))-1], nil
	case "retry":
		if info.Attempt == 1 {
			return nil, fmt.Errorf("PUT /site: %s", said)
		}
		return said[:10], nil
	case "error":
		return nil, fmt.Errorf("%q: %w", given("S0"), errors.New(strings.Join(said, " ")))
	case "long": // text that is cut where a secret is
		if info.Attempt == 1 {
			text := strings.Repeat(".", 64<<10-20) + given("S0")
			return nil, errors.New(text + given("S1"))
		}
		return nil, nil
	case "panic":
		panic(strings.Join(os.Environ(), "\n") + fmt.Sprint(said))
	case "crash":
		go func() { panic(strings.Join(said, " ")) }()
		<-ctx.Done()
	case "exit":
		fmt.Fprint(os.Stderr, strings.Join(said, "; "))
		os.Exit(3)
	case "show":
		for chunk := range slices.Chunk(said, 30) {
			if err := errors.Join(says.SetInStep(ctx, chunk[:min(10, len(chunk))]), lines.AppendInStep(ctx, chunk), workflow.Heartbeat(ctx, chunk[0])); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "file":
		text := []byte(strings.Join(said, "\n"))
		return nil, errors.Join(os.WriteFile("left", text, 0o644), os.WriteFile(filepath.Join(os.TempDir(), "left"), text, 0o644))
	case "wait", "hold":
		if how == "wait" && info.Attempt > 1 {
			return said[:1], nil
		}
		if err := stage.SetInStep(ctx, "waiting"); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return nil, workflow.Permanent(fmt.Errorf("unknown: %s", how))
}

// drive has commands that are as careless.
func drive(ctx context.Context, sb *sandbox.Sandbox, _ string) (string, error) {
	c := sb.Command("sh", "-c", `set -x; env; for n in $S0 $S1 $S2 "$S4"; do printf %s "$n" | base64; printf %s "$n" | od -An -tx1; echo "token=$n" >&2; done; env >left; echo "$PLAIN" >plain; cp "$S9" copied`)
	c.Secrets = steps.Secrets
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output(ctx)
	if err != nil {
		return "", err
	}
	said := string(out) + stderr.String()
	slog.InfoContext(ctx, "tool", "said", said)
	for _, file := range []string{"left", "copied"} {
		if raw, err := sb.ReadFile(ctx, file); err == nil {
			return "", workflow.Permanent(fmt.Errorf("a file with secrets can be read: %q", raw))
		}
	}
	mark, err := sb.ReadFile(ctx, "plain")
	if err != nil {
		return "", err
	}
	fails := sb.Command("sh", "-c", `env >&2; exit 7`)
	fails.Secrets = steps.Secrets
	err = fails.Run(ctx)
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) {
		return "", fmt.Errorf("a command that fails: %w", err)
	}
	return said + string(mark) + exit.Error() + string(exit.Stderr), nil
}

// probe is the program of sandboxes that have no shell.
var probe string

// keeps has a command say the secrets, and another hold them.
func keeps(ctx context.Context, sb *sandbox.Sandbox, _ string) (string, error) {
	program, err := os.ReadFile(probe)
	if err == nil {
		err = sb.WriteFile(ctx, "probe", program, 0o755)
	}
	if err != nil {
		return "", err
	}
	says := sb.Command("/workspace/probe", "probe:env")
	says.Secrets = append([]string{injected}, steps.Secrets...)
	said, err := says.Output(ctx)
	if err != nil || !strings.Contains(string(said), "[REDACTED:S0]") || !strings.Contains(string(said), injected+"=stepward_") {
		return "", workflow.Permanent(fmt.Errorf("got %q: %w", said, err))
	}
	slog.InfoContext(ctx, "tool", "said", string(said))
	holds := sb.Command("/workspace/probe", "probe:hold-secret", "S0")
	holds.Secrets = says.Secrets
	begun, w := io.Pipe()
	holds.Stdout = w
	if err := holds.Start(ctx); err != nil {
		return "", err
	}
	text := make([]byte, len("true"))
	if _, err := io.ReadFull(begun, text); err != nil || string(text) != "true" {
		return "", workflow.Permanent(fmt.Errorf("it has no secret: %s: %w", text, err))
	}
	if err := stage.SetInStep(ctx, "waiting"); err != nil {
		return "", err
	}
	<-ctx.Done()
	return "", context.Cause(ctx)
}
