// Package sandboxtest is the conformance and escape suite of sandbox backends.
//
// A test program calls [Init] first in its TestMain, so that it can be a
// sandbox's tool runner with this package's guest steps. A backend that needs a
// static program for that takes the one of [BuildProbe]. The suite needs nothing
// of the image: the commands that it runs are the probe itself, written to
// /workspace.
//
//   - [TestBackend] checks what package sandbox promises of any backend. Of a
//     [sandbox.Invoker] it takes the commands and guest steps, with the program that
//     serves there for a probe, and that all else is refused.
//   - [TestLayers] has for each layer a probe that only this layer stops, and
//     shows with the layer switched off that the probe then succeeds.
package sandboxtest
