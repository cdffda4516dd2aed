// Package opener breaks the rules that importcheck guards, on purpose.
package opener

import (
	"crypto/hpke"

	"golang.org/x/sys/unix"

	"github.com/stepward/stepward/internal/envelope/open"
	"github.com/stepward/stepward/internal/importcheck"
)

// Open uses what a worker must not link.
var Open = hpke.Open

// Key is the sandbox's end of an envelope.
var Key = open.NewKey

// Links reaches os/exec through another package of the module.
var Links = importcheck.Check

// Pid links another module.
var Pid = unix.Getpid
