package broker

import "github.com/stepward/stepward/identity"

// Stands is what a user comes to, of the process status that it is of, at a broker with its key in a
// directory.
func Stands(dir string, uid int, status string) (identity.Level, string) {
	u := user{uid: uid}
	u.read(status)
	s := (&broker{Config: Config{Dir: dir}}).stands(u)
	return s.level, s.why
}

// SetEngines has other sockets be those that make root, until the function that it returns is called.
func SetEngines(paths ...string) (restore func()) {
	was := engines
	engines = paths
	return func() { engines = was }
}
