//go:build !linux

package workflow_test

func serveExamples() {} // they need sandboxes of this machine
