package within

import "path"

// Commands returns those that two lists allow. A path is narrower than its base name.
func Commands(a, b []string) []string {
	out := []string{}
	for _, x := range a {
		for _, y := range b {
			switch {
			case x == y, path.IsAbs(x) && path.Base(x) == y:
				out = append(out, x)
			case path.IsAbs(y) && path.Base(y) == x:
				out = append(out, y)
			}
		}
	}
	return out
}
