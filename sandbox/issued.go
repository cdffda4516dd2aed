package sandbox

import (
	"crypto/sha256"
	"fmt"
	"sync"
)

// issued gives commands IDs by what they are, and how many of the same came before: by
// their place alone, two that are started side by side could be taken for each other.
type issued struct {
	mu sync.Mutex
	n  map[[sha256.Size]byte]int
}

func newIssued(wanted bool) *issued {
	if !wanted {
		return nil
	}
	return &issued{n: map[[sha256.Size]byte]int{}}
}

// id returns the ID of a command that is issued now.
func (i *issued) id(c *Cmd) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %t %d", c.Name, c.Args, c.Dir, c.Env, c.Terminal != nil, c.MaxOutput)
	what := [sha256.Size]byte(h.Sum(nil))
	i.mu.Lock()
	defer i.mu.Unlock()
	i.n[what]++
	return fmt.Sprintf("issued-%x-%d", what[:16], i.n[what])
}
