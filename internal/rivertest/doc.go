// Package rivertest tests what River's own tools see of Stepward: River UI on
// its River schema, and runs started by a River client that knows nothing of it.
//
// It is a module of its own, so that River UI is no dependency of the library.
package rivertest
