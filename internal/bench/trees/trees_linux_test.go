package trees

import (
	"errors"
	"strings"
	"testing"

	"github.com/stepward/stepward/internal/testenv"
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
	"github.com/stepward/stepward/sandbox/sandboxtest"
)

// What is killed has as many processes as its name says, and none then.
func TestTrees(t *testing.T) {
	ctx := t.Context()
	s, err := sandbox.Start(ctx, local.New(local.Config{Program: sandboxtest.BuildProbe(t)}), sandbox.Options{Spec: sandbox.Spec{Limits: sandbox.Limits{PIDs: PIDs}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(ctx)
	if err := Put(ctx, s); err != nil {
		t.Fatal(err)
	}
	count := func(of Tree, want string) {
		t.Helper()
		out, err := s.Command("sh", "-c", "grep -lszx '[/]workspace/tree' /proc/[0-9]*/cmdline | wc -l").Output(ctx)
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: %s processes, %v; want %s", of.Name, out, err, want)
		}
	}
	for i, tree := range All {
		end, err := tree.plant(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		switch i {
		case 0:
			count(tree, "1")
		case 1:
			count(tree, "51")
		default:
			testenv.Eventually(t, "nothing can be started beside "+tree.Name, func() bool {
				ce := (*sandbox.CommandError)(nil)
				return errors.As(s.Command(Path).Run(ctx), &ce)
			})
		}
		if err := end(); err == nil {
			t.Errorf("%s: it ended well", tree.Name)
		}
		count(tree, "0")
	}
}
