package workflowvet

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/inspect"
	"golang.org/x/tools/go/ast/inspector"
	"golang.org/x/tools/go/types/typeutil"
)

// Analyzer reports what a workflow's body must not do.
var Analyzer = &analysis.Analyzer{
	Name:      "workflowvet",
	Doc:       "report what comes out differently when the body of a workflow is replayed",
	URL:       "https://pkg.go.dev/github.com/stepward/stepward/workflow/workflowvet",
	Requires:  []*analysis.Analyzer{inspect.Analyzer},
	FactTypes: []analysis.Fact{new(unstable)},
	Run:       run,
}

// unstable is the fact that a function, when called, does something that comes
// out differently each time.
type unstable struct {
	Why     string // "calls time.Now"
	Instead string
}

func (*unstable) AFact() {}

func (u *unstable) String() string { return u.Why }

const (
	workflowPath = "github.com/stepward/stepward/workflow"
	directive    = "//workflowvet:ignore"
)

// checker is the analysis of one package.
type checker struct {
	*analysis.Pass
	ignored  map[string]map[int]bool // lines, by file
	unstable map[*types.Func]*unstable
}

func run(pass *analysis.Pass) (any, error) {
	path := pass.Pkg.Path()
	if path == workflowPath || !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") && !inModule(pass) {
		return nil, nil // what a body asks for instead, and the standard library
	}
	c := &checker{Pass: pass, ignored: make(map[string]map[int]bool), unstable: make(map[*types.Func]*unstable)}
	for _, f := range pass.Files {
		c.directives(f)
	}
	c.helpers()
	in := pass.ResultOf[inspect.Analyzer].(*inspector.Inspector)
	in.Nodes([]ast.Node{(*ast.FuncDecl)(nil), (*ast.FuncLit)(nil)}, func(n ast.Node, push bool) bool {
		if !push {
			return true
		}
		var body *ast.BlockStmt
		var ft *ast.FuncType
		switch n := n.(type) {
		case *ast.FuncDecl:
			body, ft = n.Body, n.Type
		case *ast.FuncLit:
			body, ft = n.Body, n.Type
		}
		if body == nil || !c.takesContext(ft) {
			return true
		}
		c.body(body)
		return false // functions in a body are part of it
	})
	return nil, nil
}

// inModule reports whether the package is of a module, and not of the standard
// library, although its path has no dot.
func inModule(pass *analysis.Pass) bool {
	return pass.Module != nil && pass.Module.Path != "" && pass.Module.Path != "std"
}

// directives notes which lines are silenced.
func (c *checker) directives(f *ast.File) {
	for _, group := range f.Comments {
		for _, comment := range group.List {
			reason, ok := strings.CutPrefix(comment.Text, directive)
			if !ok || reason != "" && reason[0] != ' ' && reason[0] != '\t' {
				continue
			}
			if strings.TrimSpace(reason) == "" {
				c.Reportf(comment.Pos(), "%s without a reason", directive)
				continue
			}
			at := c.Fset.Position(comment.Pos())
			if c.ignored[at.Filename] == nil {
				c.ignored[at.Filename] = make(map[int]bool)
			}
			c.ignored[at.Filename][at.Line] = true
			if at.Column == 1 || c.alone(f, comment) {
				c.ignored[at.Filename][at.Line+1] = true
			}
		}
	}
}

// alone reports whether nothing but the comment is on its line.
func (c *checker) alone(f *ast.File, comment *ast.Comment) bool {
	line := c.Fset.Position(comment.Pos()).Line
	alone := true
	ast.Inspect(f, func(n ast.Node) bool {
		if n == nil || !alone {
			return false
		}
		switch n.(type) {
		case *ast.Comment, *ast.CommentGroup:
			return false
		}
		from, to := c.Fset.Position(n.Pos()).Line, c.Fset.Position(n.End()).Line
		if n.End() <= comment.Pos() && to == line || from == line {
			alone = false
		}
		return from <= line && line <= to
	})
	return alone
}

func (c *checker) silent(pos token.Pos) bool {
	at := c.Fset.Position(pos)
	return c.ignored[at.Filename][at.Line]
}

func (c *checker) report(n ast.Node, format string, args ...any) {
	if !c.silent(n.Pos()) {
		c.Report(analysis.Diagnostic{Pos: n.Pos(), End: n.End(), Message: fmt.Sprintf(format, args...)})
	}
}

// takesContext reports whether a function runs in a body: it has a parameter of
// type workflow.Context.
func (c *checker) takesContext(ft *ast.FuncType) bool {
	for _, field := range ft.Params.List {
		if isContext(c.TypesInfo.TypeOf(field.Type)) {
			return true
		}
	}
	return false
}

func isContext(t types.Type) bool { return t != nil && isNamed(t, workflowPath, "Context") }

func isNamed(t types.Type, path, name string) bool {
	n, ok := types.Unalias(t).(*types.Named)
	return ok && n.Obj().Pkg() != nil && n.Obj().Pkg().Path() == path && n.Obj().Name() == name
}

// callee returns the function that a call is for, if that is known.
func (c *checker) callee(call *ast.CallExpr) *types.Func {
	f, _ := typeutil.Callee(c.TypesInfo, call).(*types.Func)
	if f == nil {
		return nil
	}
	return f.Origin()
}

// makesStep reports whether a call makes a step of the functions that it is given.
func (c *checker) makesStep(call *ast.CallExpr) bool {
	f := c.callee(call)
	if f == nil || f.Pkg() == nil || f.Pkg().Path() != workflowPath {
		return false
	}
	switch f.Name() {
	case "NewStep", "NewToolStep", "NewTxStep":
		return true
	}
	return false
}
