// Package importcheck holds packages to the imports that they are allowed.
//
// Two promises of the design are promises about linking: the client side has
// no way to execute a step, and neither client nor worker can open a secret.
// The check walks all that a package links and compares with an allow-list, so
// that something new is a finding until somebody has decided about it.
package importcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// A Rule says what packages may link.
type Rule struct {
	// Packages are go list patterns, of this module.
	Packages []string

	// Except are packages that the patterns match and that are left out.
	Except []string

	// Allow are the packages of this module that may be linked. A path that
	// ends in "/..." allows the packages below it as well.
	Allow []string

	// AllowModules are the other modules from which packages may be linked.
	// Nil allows all.
	AllowModules []string

	// DenyDirect are packages of any module that no package of this module
	// among those linked may import itself. The standard library and
	// drivers import some of them for purposes of their own.
	DenyDirect []string
}

// Check returns what breaks the rule, a line per finding, with the chain of
// imports that leads there. dir is a folder of the module.
func Check(dir string, rule Rule) ([]string, error) {
	packages, err := matched(dir, rule)
	if err != nil {
		return nil, err
	}
	graph, err := load(dir, packages)
	if err != nil {
		return nil, err
	}
	var findings []string
	foreign := map[string]string{} // module to the first package of it
	for path, p := range graph {
		switch {
		case p.Standard:
			continue
		case p.Module.Main:
			if !allowed(path, rule.Allow) && !p.root() {
				findings = append(findings, "links "+path+graph.chain(path))
			}
			for _, imported := range p.Imports {
				if allowed(imported, rule.DenyDirect) {
					findings = append(findings, path+" imports "+imported+graph.chain(path))
				}
			}
		case rule.AllowModules != nil && !slices.Contains(rule.AllowModules, p.Module.Path):
			if first, ok := foreign[p.Module.Path]; !ok || path < first {
				foreign[p.Module.Path] = path
			}
		}
	}
	for module, path := range foreign {
		findings = append(findings, "links module "+module+graph.chain(path))
	}
	slices.Sort(findings)
	return findings, nil
}

func allowed(path string, list []string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		parent, tree := strings.CutSuffix(entry, "/...")
		return path == parent || tree && strings.HasPrefix(path, parent+"/")
	})
}

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
	DepOnly    bool
	Module     struct {
		Path string
		Main bool
	}
}

func (p pkg) root() bool { return !p.DepOnly }

type graph map[string]pkg

// matched returns the packages that a rule is about.
func matched(dir string, rule Rule) ([]string, error) {
	if len(rule.Except) == 0 {
		return rule.Packages, nil
	}
	out, err := list(dir, rule.Packages)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(path string) bool { return allowed(path, rule.Except) }), nil
}

func list(dir string, args []string) ([]byte, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.Bytes())
	}
	return out, nil
}

func load(dir string, patterns []string) (graph, error) {
	out, err := list(dir, append([]string{"-deps", "-json=ImportPath,Imports,Standard,DepOnly,Module"}, patterns...))
	if err != nil {
		return nil, err
	}
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		g[p.ImportPath] = p
	}
	if len(g) == 0 {
		return nil, fmt.Errorf("no packages match %q", patterns)
	}
	return g, nil
}

// chain is how one of the named packages comes to link path.
func (g graph) chain(path string) string {
	chain := []string{path}
	for !g[path].root() {
		var importer string
		for candidate, p := range g {
			if slices.Contains(p.Imports, path) && !slices.Contains(chain, candidate) && (importer == "" || p.root() || candidate < importer && !g[importer].root()) {
				importer = candidate
			}
		}
		if importer == "" {
			break
		}
		chain = append(chain, importer)
		path = importer
	}
	if len(chain) == 1 {
		return ""
	}
	slices.Reverse(chain)
	return " (" + strings.Join(chain, " > ") + ")"
}
