// Package sandboxtest is the conformance, escape and leak suite of sandbox backends.
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
//   - [TestEscape] has programs in a sandbox try to get out of it. Of an Invoker, and
//     in [TestLeak], it takes what needs no files and nothing of its machine.
//   - [TestEgress] has them reach what the policy of their network does not name.
//   - [TestLeak] looks in one for what is another's, or the worker's.
//   - [TestLayers] has for each layer a probe that only this layer stops, and
//     shows with the layer switched off that the probe then succeeds.
//
// Cases that need no sandbox of their own share one, one after another, as the steps
// of a run do: what a case does to it must leave it of use. After a case that failed
// the next one has a new sandbox. A backend makes about 40 for all of it.
//
// [Cases] is the list of what is tried, with the tests that hold each, and
// docs/sandboxes.md says what became of them on each backend.
package sandboxtest
