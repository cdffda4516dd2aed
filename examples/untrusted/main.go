// Command untrusted runs programs that nobody has read, from files in Python or
// shell, each in a sandbox of its own: it may reach one host, and has little
// memory, few processes and not much time. What goes wrong is a result to read.
//
//	go run ./examples/untrusted                       # four that misbehave
//	go run ./examples/untrusted -allow pypi.org:443 program.py
//
// Where the user may not make control groups, memory is not limited, and the one
// that wants all of it is left out.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stepward/stepward/audit"
	"github.com/stepward/stepward/examples/internal/app"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/worker/bootstrap"
	"github.com/stepward/stepward/workflow"
)

// Program is the input: a file.
type Program struct{ Name, Text string }

// Outcome is what became of it.
type Outcome struct {
	Output string // the end of it
	Error  string // empty if it ended well
}

// Execute is the workflow.
var Execute = workflow.DurableWorkflow[Program, Outcome]{Name: "execute"}

// The program's own limits.
const (
	timeout = 10 * time.Second
	output  = 4 << 10
)

// define returns the workflow for programs that may reach one host.
func define(allow string, limits sandbox.Limits) *workflow.Definition {
	execute := workflow.NewToolStep("execute", execute, workflow.StepOptions{
		Mode:    workflow.Sandboxed,
		Sandbox: sandbox.Spec{Network: sandbox.NetworkPolicy{Allow: []string{allow}}, Limits: limits},
	})
	return workflow.Define(Execute, execute.Run, workflow.Options{Steps: []workflow.Declared{execute}})
}

func execute(ctx context.Context, sb *sandbox.Sandbox, p Program) (Outcome, error) {
	name := filepath.Base(p.Name)
	if err := sb.WriteFile(ctx, name, []byte(p.Text), 0o644); err != nil {
		return Outcome{}, err
	}
	interpreter := "sh"
	if filepath.Ext(name) == ".py" {
		interpreter = "python3"
	}
	c := sb.Command(interpreter, name)
	c.Timeout, c.MaxOutput = timeout, output
	out, err := c.CombinedOutput(ctx)
	var exit *sandbox.ExitError
	switch {
	case errors.As(err, &exit): // the program's fault, which trying again does not mend
		return Outcome{Output: string(out), Error: err.Error()}, nil
	case err != nil:
		return Outcome{}, err
	}
	return Outcome{Output: string(out)}, nil
}

//go:embed programs
var programs embed.FS

func main() {
	bootstrap.Init()
	allow := flag.String("allow", "example.com", "the `host` that programs may reach, or host:port")
	flag.Parse()
	app.Main(func(ctx context.Context, a *app.App) error { return example(ctx, a, *allow, flag.Args()) })
}

func example(ctx context.Context, a *app.App, allow string, files []string) error {
	read := os.ReadFile
	if len(files) == 0 {
		read = programs.ReadFile
		files = []string{"programs/network.sh", "programs/memory.sh", "programs/slow.sh", "programs/bomb.sh"}
	}
	limits := sandbox.Limits{Memory: 128 << 20, PIDs: 64}
	can, err := local.New(local.Config{}).Probe(ctx)
	if err != nil {
		return err
	}
	if !can.Memory {
		limits.Memory = 0
		files = slices.DeleteFunc(files, func(f string) bool { return f == "programs/memory.sh" })
	}
	defer a.Work(ctx, define(allow, limits))()
	for _, file := range files {
		text, err := read(file)
		if err != nil {
			return err
		}
		run, err := Execute.Enqueue(ctx, a.Client, Program{file, string(text)}, workflow.EnqueueOptions{})
		if err != nil {
			return err
		}
		out, err := run.Result(ctx)
		if err != nil {
			return err
		}
		fmt.Println(filepath.Base(file))
		for line := range strings.Lines(out.Output) {
			fmt.Printf("  | %q\n", strings.TrimSuffix(line, "\n")) // whatever it is, a terminal shows it as text
		}
		fmt.Println("  ended:", describe(out.Error))
		if err := reached(ctx, a, run.ID); err != nil {
			return err
		}
	}
	return nil
}

func describe(e string) string {
	if e == "" {
		return "well"
	}
	return e
}

// reached prints the audit of a run's network.
func reached(ctx context.Context, a *app.App, run workflow.RunID) error {
	events, err := audit.Events(ctx, a.Pool, audit.Filter{Schema: a.Schema, Run: run, Kinds: []string{audit.SandboxEgress}})
	if err != nil || len(events) == 0 {
		return err
	}
	var detail struct{ Egress []sandbox.Egress }
	if err := json.Unmarshal(events[len(events)-1].Detail, &detail); err != nil {
		return err
	}
	for _, e := range detail.Egress {
		fmt.Println("  audit:", strings.TrimSpace(fmt.Sprintf("%s:%d %s %s", e.Host, e.Port, e.Decision, e.Reason)))
	}
	return nil
}
