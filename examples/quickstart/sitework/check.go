package sitework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"github.com/stepward/stepward/sandbox"
)

// A File is a page of the site.
type File struct{ Name, HTML string }

// self is this very program, wherever a sandbox keeps it. So the command is
// there in any image, also in one that has nothing else.
const self = "/proc/self/exe"

// checkSite stays on the worker: it puts the pages into the sandbox and runs a
// command there that follows their links.
func checkSite(ctx context.Context, sb *sandbox.Sandbox, files []File) (Links, error) {
	dir := path.Join(sandbox.Workspace, "site")
	for _, f := range files {
		if err := sb.WriteFile(ctx, path.Join(dir, f.Name), []byte(f.HTML), 0o644); err != nil {
			return Links{}, err
		}
	}
	out, err := sb.Command(self, LinkCheck, dir).Output(ctx)
	if err != nil {
		var exit *sandbox.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return Links{}, err
	}
	var links Links
	if err := json.Unmarshal(out, &links); err != nil {
		return Links{}, fmt.Errorf("output of %s: %w", LinkCheck, err)
	}
	return links, nil
}
