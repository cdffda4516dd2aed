package workflow_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The package's documentation says of each exported name why it is there, and
// there are few.
func TestNames(t *testing.T) {
	fset := token.NewFileSet()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, e.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(fset, files, "github.com/stepward/stepward/workflow")
	if err != nil {
		t.Fatal(err)
	}
	_, group, ok := strings.Cut(p.Doc, "# The names")
	if !ok {
		t.Fatal("no section about the names")
	}
	var names []string // exported or not
	for _, f := range p.Funcs {
		names = append(names, f.Name)
	}
	for _, v := range append(p.Vars, p.Consts...) {
		names = append(names, v.Names...)
	}
	for _, x := range p.Types {
		names = append(names, x.Name)
		for _, f := range x.Funcs {
			names = append(names, f.Name)
		}
		for _, v := range x.Vars {
			names = append(names, v.Names...)
		}
	}
	exported := 0
	for _, name := range names {
		if !ast.IsExported(name) {
			continue
		}
		exported++
		if !strings.Contains(group, "["+name+"]") {
			t.Errorf("%s is in no group", name)
		}
	}
	for _, link := range regexp.MustCompile(`\[([A-Z]\w+)\]`).FindAllStringSubmatch(group, -1) {
		if !slices.Contains(names, link[1]) {
			t.Errorf("%s is no name", link[1])
		}
	}
	if exported >= 80 {
		t.Errorf("%d exported names", exported)
	}
}
