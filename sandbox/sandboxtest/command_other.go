//go:build !linux

package sandboxtest

func command(string, []string) int { return 2 }
