//go:build !unix

package devdb

import (
	"context"
	"errors"
)

// joinCluster needs named pipes with the semantics of Unix to notice the end
// of the last holder.
func joinCluster(context.Context, Config, func(string) (string, error)) (*DB, error) {
	return nil, errors.New("a throw-away cluster is supported on Unix only")
}
