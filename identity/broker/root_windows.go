package broker

import "io/fs"

const lax = true // modes do not say who may read a file

func owned(fs.FileInfo) bool { return true }

func syncDir(string) error { return nil }
