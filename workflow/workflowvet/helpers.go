package workflowvet

import (
	"go/ast"
	"go/types"
)

// helpers finds the functions of the package that come out differently each
// time, by themselves or by what they call, and exports that as facts.
func (c *checker) helpers() {
	calls := make(map[*types.Func][]*types.Func)
	var order []*types.Func
	for _, file := range c.Files {
		for _, d := range file.Decls {
			decl, ok := d.(*ast.FuncDecl)
			if !ok || decl.Body == nil || c.takesContext(decl.Type) { // a body has its own reports
				continue
			}
			f, ok := c.TypesInfo.Defs[decl.Name].(*types.Func)
			if !ok {
				continue
			}
			order = append(order, f)
			calls[f] = c.executes(f, decl.Body)
		}
	}
	for again := true; again; {
		again = false
		for _, f := range order {
			if c.unstable[f] != nil {
				continue
			}
			for _, g := range calls[f] {
				if u := c.unstable[g]; u != nil {
					c.unstable[f] = &unstable{"calls " + display(g) + ", which " + u.Why, u.Instead}
					again = true
					break
				}
			}
		}
	}
	for f, u := range c.unstable {
		if f.Pkg() == c.Pkg {
			c.ExportObjectFact(f, u)
		}
	}
}

// executes returns the functions of this package that a function calls, and notes
// what it does itself. Functions in it that it does not call itself may be for
// anything, and are left out.
func (c *checker) executes(f *types.Func, body *ast.BlockStmt) (calls []*types.Func) {
	called := make(map[*ast.FuncLit]bool)
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return called[n]
		case *ast.GoStmt:
			if !c.silent(n.Pos()) {
				c.note(f, "starts a goroutine", insteadGo)
			}
		case *ast.CallExpr:
			if lit, ok := ast.Unparen(n.Fun).(*ast.FuncLit); ok {
				called[lit] = true
			}
			g := c.callee(n)
			if g == nil || c.silent(n.Pos()) {
				return true
			}
			if g.Pkg() == c.Pkg {
				calls = append(calls, g)
			} else if why, instead, local := c.does(g); why != "" && !local {
				c.note(f, why, instead)
			}
		}
		return true
	})
	return calls
}

func (c *checker) note(f *types.Func, why, instead string) {
	if c.unstable[f] == nil {
		c.unstable[f] = &unstable{why, instead}
	}
}

// does returns what is wrong with a call of a function in a body, if anything is.
func (c *checker) does(f *types.Func) (why, instead string, local bool) {
	if h, ok := hazardOf(f); ok {
		return "calls " + display(f), h.instead, h.local
	}
	if f.Pkg() == nil || f.Pkg().Path() == workflowPath {
		return "", "", false
	}
	if u := c.unstable[f]; u != nil {
		return "calls " + display(f) + ", which " + u.Why, u.Instead, false
	}
	u := new(unstable)
	if f.Pkg() != c.Pkg && c.ImportObjectFact(f, u) {
		return "calls " + display(f) + ", which " + u.Why, u.Instead, false
	}
	return "", "", false
}
