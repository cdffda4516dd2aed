package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stepward/stepward/examples/quickstart/site"
	"github.com/stepward/stepward/examples/quickstart/sitework"
	"github.com/stepward/stepward/workflow"
)

//go:embed brief.md
var sample string

// pause slows the pages of -kill down, so that there is a middle to be killed in.
const pause = 700 * time.Millisecond

func quickstart(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	brief, err := readBrief(o)
	if err != nil {
		return err
	}
	screen := newScreen(os.Stdout)
	defer screen.close()
	sandboxes, err := o.sandbox.choose(ctx, screen)
	if err != nil {
		return err
	}
	db, err := openDatabase(ctx, screen)
	if err != nil {
		return err
	}
	defer db.close()
	secrets, err := openSecrets(ctx, db, screen)
	if err != nil {
		return err
	}
	defer secrets.close()

	// A worker that fails ends the wait for the run, with its error.
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	setup := workerSetup{db: db, sandboxes: sandboxes, verbose: o.verbose, logs: screen, fail: fail}
	progress := newProgress(screen).look
	var watchers []func(context.Context, look) error
	if o.kill {
		workers, err := startProcesses(setup, "worker-1", "worker-2")
		if err != nil {
			return err
		}
		defer workers.stop()
		brief.Pause = pause
		screen.printf("workers     worker-1 and worker-2, each a process of its own\n"+
			"            (pages take %v longer, to leave time for the kill)", pause)
		k := &killer{screen: screen, workers: workers}
		watchers = append(watchers, k.look, progress, k.verify)
	} else {
		defer startInProcess(ctx, setup, "worker-1")()
		watchers = append(watchers, progress)
		screen.printf("worker      in this process")
	}

	run, err := site.Portfolio.Enqueue(ctx, db.client, brief, workflow.EnqueueOptions{Tenant: tenant})
	if err != nil {
		return err
	}
	screen.printf("run         %v\n", run.ID)
	last, err := watch(ctx, db.client, run.ID, watchers...)
	if err != nil {
		if ctx.Err() == nil {
			return err
		}
		giveUp(ctx, run)
		return context.Cause(ctx)
	}
	screen.timeline(run.ID, last)
	made, err := run.Result(ctx)
	if err != nil {
		var failed *workflow.RecordedError
		if errors.As(err, &failed) {
			return failed // without the run's id, which is on the screen
		}
		return err
	}
	if err := secrets.check(made); err != nil {
		return err
	}
	screen.printf("\n%q: %s, %s\n%s checked, %d to other sites not followed\n%s\n"+
		"published as %.6x, which the customer's key has signed. The deploy said: %q", made.Title, count(len(made.Files), "file"),
		count(made.Bytes, "byte"), count(made.Links, "link"), made.External, filepath.Join(made.Dir, made.Files[0]),
		made.Receipt.Digest, made.Receipt.Log)
	return nil
}

// giveUp cancels the run: nobody is there to see its end.
func giveUp(ctx context.Context, run workflow.Run[site.Site]) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var ended *workflow.StateError
	if err := run.Cancel(ctx); err != nil && !errors.As(err, &ended) {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
	}
}

// readBrief finds out early what would fail late.
func readBrief(o options) (site.Brief, error) {
	brief := site.Brief{Markdown: sample}
	if o.brief != "" {
		text, err := os.ReadFile(o.brief)
		if err != nil {
			return brief, err
		}
		brief.Markdown = string(text)
		brief.Name = strings.TrimSuffix(filepath.Base(o.brief), filepath.Ext(o.brief))
		switch {
		case strings.TrimSpace(brief.Markdown) == "":
			return brief, fmt.Errorf("%s is empty", o.brief)
		case !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0:
			return brief, fmt.Errorf("%s is no Markdown: it is not text in UTF-8", o.brief)
		}
	}
	var err error
	// A worker may run in another folder than this process.
	if brief.Dir, err = filepath.Abs(o.out); err != nil {
		return brief, err
	}
	dir, err := sitework.OpenFolder(brief.Dir)
	if err != nil {
		return brief, fmt.Errorf("-out: %w", err)
	}
	return brief, dir.Close()
}
