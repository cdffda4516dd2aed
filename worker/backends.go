package worker

import (
	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
)

// defaultBackends need nothing installed.
func defaultBackends() []sandbox.Backend {
	return []sandbox.Backend{local.New(local.Config{})}
}
