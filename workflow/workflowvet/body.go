package workflowvet

import (
	"go/ast"
	"go/token"
	"go/types"
)

// body checks a function that is replayed, with the functions in it.
func (c *checker) body(block *ast.BlockStmt) {
	ast.PreorderStack(block, nil, func(n ast.Node, stack []ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			c.report(n, "a workflow's body starts a goroutine, whose order a replay does not repeat: %s", insteadGo)
			return false
		case *ast.SelectStmt:
			c.report(n, "select in a workflow's body: a replay may choose otherwise; use workflow.Ready over futures")
		case *ast.SendStmt:
			c.report(n, "channel send in a workflow's body: branches share variables, futures carry results, and workflow.Signal carries values from outside")
		case *ast.UnaryExpr:
			if n.Op == token.ARROW && !within[*ast.SelectStmt](stack) {
				c.report(n, "channel receive in a workflow's body: use a workflow.Future, or Signal.Receive for values from outside")
			}
		case *ast.RangeStmt:
			c.ranges(n, stack)
		case *ast.DeferStmt:
			if c.durable(n.Call) {
				c.report(n, "deferred durable call: deferred calls run each time that the run leaves its worker, and a durable call in one ends it there; use ctx.Finally")
			}
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, lhs := range n.Lhs {
					c.written(lhs)
				}
			}
		case *ast.IncDecStmt:
			c.written(n.X)
		case *ast.CallExpr:
			return c.call(n, stack)
		case *ast.Ident:
			c.use(n, stack)
		}
		return true
	})
}

// within reports whether one of the statements around is of a kind.
func within[T ast.Node](stack []ast.Node) bool {
	for _, n := range stack {
		if _, ok := n.(T); ok {
			return true
		}
	}
	return false
}

// call checks a call, and returns whether to look into it.
func (c *checker) call(call *ast.CallExpr, stack []ast.Node) bool {
	if c.makesStep(call) {
		c.captured(call)
		return false // its function is no part of the body
	}
	if fun, ok := ast.Unparen(call.Fun).(*ast.Ident); ok {
		if b, ok := c.TypesInfo.Uses[fun].(*types.Builtin); ok && b.Name() == "recover" {
			c.report(call, "recover in a workflow's body: a panic parks the run for a deploy to cure, and recovered it leaves the run in a state that no replay has; return an error instead")
		}
	}
	f := c.callee(call)
	if f == nil {
		return true
	}
	if f.Pkg() != nil && f.Pkg().Path() == "slices" && f.Name() == "Collect" && len(call.Args) == 1 && c.mapIterator(call.Args[0]) && !c.sortedLater(assigned(call, stack), stack) {
		c.report(call, "the order of a map is another one each time: use slices.Sorted")
	}
	return true
}

// assigned returns the variable that a call's value is assigned to.
func assigned(call *ast.CallExpr, stack []ast.Node) *ast.Ident {
	if len(stack) == 0 {
		return nil
	}
	a, ok := stack[len(stack)-1].(*ast.AssignStmt)
	if !ok || len(a.Lhs) != 1 || len(a.Rhs) != 1 || a.Rhs[0] != call {
		return nil
	}
	id, _ := a.Lhs[0].(*ast.Ident)
	return id
}

// use checks a name: a function counts where it is named, as it may be passed on.
func (c *checker) use(id *ast.Ident, stack []ast.Node) {
	switch o := c.TypesInfo.Uses[id].(type) {
	case *types.Func:
		if why, instead, _ := c.does(o.Origin()); why != "" {
			c.report(id, "a workflow's body %s: %s", why, instead)
		}
	case *types.Var:
		c.foreign(id, o, stack)
		if o.Pkg() != nil && o.Pkg().Path() == "os" && o.Parent() == o.Pkg().Scope() {
			switch o.Name() {
			case "Stdout", "Stderr":
				c.report(id, "a workflow's body uses os.%s: %s", o.Name(), insteadLogger)
			case "Stdin", "Args":
				c.report(id, "a workflow's body uses os.%s: %s, or pass it as input", o.Name(), insteadStep)
			}
		}
	}
}

// written checks what is assigned to.
func (c *checker) written(e ast.Expr) {
	for at := e; ; {
		switch x := ast.Unparen(at).(type) {
		case *ast.SelectorExpr:
			if id, ok := x.X.(*ast.Ident); ok {
				if _, pkg := c.TypesInfo.Uses[id].(*types.PkgName); pkg {
					at = x.Sel
					continue
				}
			}
			at = x.X
		case *ast.IndexExpr:
			at = x.X
		case *ast.StarExpr:
			at = x.X
		case *ast.Ident:
			v, ok := c.TypesInfo.Uses[x].(*types.Var)
			if ok && v.Pkg() != nil && v.Parent() == v.Pkg().Scope() {
				c.report(e, "a workflow's body writes to package-level variable %s: so does each replay, and every other run; keep it local, or write it in a step", v.Name())
			}
			return
		default:
			return
		}
	}
}

// durable reports whether a call, or one in the function that it calls, is passed
// a workflow.Context, or is one of its methods.
func (c *checker) durable(call *ast.CallExpr) (found bool) {
	ast.Inspect(call, func(n ast.Node) bool {
		if inner, ok := n.(*ast.CallExpr); ok {
			if method, ok := ast.Unparen(inner.Fun).(*ast.SelectorExpr); ok && method.Sel.Name != "Logger" && method.Sel.Name != "Info" {
				found = found || isContext(c.TypesInfo.TypeOf(method.X))
			}
			for _, arg := range inner.Args {
				found = found || isContext(c.TypesInfo.TypeOf(arg))
			}
		}
		return !found
	})
	return found
}
