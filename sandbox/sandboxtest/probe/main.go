// Probe is what the suite runs inside a sandbox: its commands, guest steps and,
// where asked for, the tool runner.
package main

import "github.com/stepward/stepward/sandbox/sandboxtest"

func main() { sandboxtest.Init() }
