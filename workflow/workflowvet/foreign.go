package workflowvet

import (
	"go/ast"
	"go/types"
)

// foreign checks the use of a workflow.Context in a function that has one of its
// own: that of a branch, of a cleanup, or another part of the body.
func (c *checker) foreign(id *ast.Ident, v *types.Var, stack []ast.Node) {
	if !isContext(v.Type()) || v.IsField() || described(id, stack) {
		return
	}
	for i := len(stack) - 1; i >= 0; i-- {
		fn, ok := stack[i].(*ast.FuncLit)
		if !ok || !c.takesContext(fn.Type) {
			continue
		}
		if v.Pos() < fn.Pos() || fn.End() <= v.Pos() {
			c.report(id, "%s is the workflow.Context of another function: a call with it from here parks the run; use the one that this function is given", id.Name)
		}
		return
	}
}

// described reports whether a Context is only asked what is the same in all
// branches.
func described(id *ast.Ident, stack []ast.Node) bool {
	if len(stack) == 0 {
		return false
	}
	method, ok := stack[len(stack)-1].(*ast.SelectorExpr)
	return ok && method.X == id && (method.Sel.Name == "Logger" || method.Sel.Name == "Info")
}

// captured checks the function of a step that is made in a body.
func (c *checker) captured(call *ast.CallExpr) {
	ast.Inspect(call, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			if v, ok := c.TypesInfo.Uses[id].(*types.Var); ok && isContext(v.Type()) && !v.IsField() {
				c.report(id, "the function of a step uses the body's workflow.Context: a step executes outside of the body and can make no durable call; make it in the body, and pass the result as input")
			}
		}
		return true
	})
}
