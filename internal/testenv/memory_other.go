//go:build !linux

package testenv

func clusterDir() string { return "" } // which is devdb's own choice
