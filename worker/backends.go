package worker

import "github.com/stepward/stepward/sandbox"

func defaultBackends() []sandbox.Backend { return nil }
