package workflowvet

import (
	"go/ast"
	"go/token"
	"go/types"
)

// ranges checks a range statement: over a channel, or over a map whose order can
// show.
func (c *checker) ranges(n *ast.RangeStmt, stack []ast.Node) {
	t := c.TypesInfo.TypeOf(n.X)
	if t == nil {
		return
	}
	_, isMap := t.Underlying().(*types.Map)
	if _, isChan := t.Underlying().(*types.Chan); isChan {
		c.report(n, "range over a channel in a workflow's body: use workflow.Ready over futures")
		return
	}
	if !isMap && !c.mapIterator(n.X) || n.Key == nil {
		return
	}
	if c.unordered(n, n.Body.List, stack) {
		return
	}
	c.report(n, "the order of a map is another one each time: range over its sorted keys, slices.Sorted(maps.Keys(m))")
}

// mapIterator reports whether an expression is maps.Keys, Values or All of a map.
func (c *checker) mapIterator(e ast.Expr) bool {
	call, ok := ast.Unparen(e).(*ast.CallExpr)
	if !ok {
		return false
	}
	f := c.callee(call)
	if f == nil || f.Pkg() == nil || f.Pkg().Path() != "maps" {
		return false
	}
	return f.Name() == "Keys" || f.Name() == "Values" || f.Name() == "All"
}

// unordered reports whether statements of a loop over a map come to the same in
// every order.
func (c *checker) unordered(loop *ast.RangeStmt, list []ast.Stmt, stack []ast.Node) bool {
	for _, s := range list {
		if !c.unorderedStmt(loop, s, stack) {
			return false
		}
	}
	return true
}

func (c *checker) unorderedStmt(loop *ast.RangeStmt, s ast.Stmt, stack []ast.Node) bool {
	switch s := s.(type) {
	case *ast.BranchStmt:
		return s.Tok == token.CONTINUE && s.Label == nil
	case *ast.IfStmt:
		if s.Init != nil || !c.plain(s.Cond) || !c.unordered(loop, s.Body.List, stack) {
			return false
		}
		return s.Else == nil || c.unorderedStmt(loop, s.Else, stack)
	case *ast.BlockStmt:
		return c.unordered(loop, s.List, stack)
	case *ast.IncDecStmt:
		return c.integer(s.X)
	case *ast.ExprStmt: // delete(m, k)
		call, ok := s.X.(*ast.CallExpr)
		return ok && c.builtin(call, "delete") && c.isKey(loop, call.Args[1])
	case *ast.AssignStmt:
		if len(s.Lhs) != 1 {
			return false
		}
		switch lhs := ast.Unparen(s.Lhs[0]).(type) {
		case *ast.IndexExpr: // other[k] = …
			return s.Tok == token.ASSIGN && c.isKey(loop, lhs.Index) && c.plain(s.Rhs[0])
		case *ast.Ident:
			if s.Tok == token.ADD_ASSIGN && c.integer(lhs) {
				return c.plain(s.Rhs[0])
			}
			call, ok := s.Rhs[0].(*ast.CallExpr) // keys = append(keys, k)
			if !ok || s.Tok != token.ASSIGN || !c.builtin(call, "append") || !c.same(lhs, call.Args[0]) {
				return false
			}
			for _, arg := range call.Args[1:] {
				if !c.plain(arg) {
					return false
				}
			}
			return c.sortedLater(lhs, stack)
		}
	}
	return false
}

// plain reports whether an expression calls nothing but builtins and conversions.
func (c *checker) plain(e ast.Expr) bool {
	ok := true
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			ok = false
		case *ast.UnaryExpr:
			ok = ok && n.Op != token.ARROW
		case *ast.CallExpr:
			tv := c.TypesInfo.Types[n.Fun]
			ok = ok && (tv.IsBuiltin() || tv.IsType())
		}
		return ok
	})
	return ok
}

func (c *checker) integer(e ast.Expr) bool {
	b, ok := c.TypesInfo.TypeOf(e).Underlying().(*types.Basic)
	return ok && b.Info()&types.IsInteger != 0
}

func (c *checker) builtin(call *ast.CallExpr, name string) bool {
	id, ok := ast.Unparen(call.Fun).(*ast.Ident)
	if !ok {
		return false
	}
	b, ok := c.TypesInfo.Uses[id].(*types.Builtin)
	return ok && b.Name() == name
}

func (c *checker) isKey(loop *ast.RangeStmt, e ast.Expr) bool {
	key, ok := loop.Key.(*ast.Ident)
	return ok && c.same(key, e)
}

func (c *checker) same(id *ast.Ident, e ast.Expr) bool {
	other, ok := ast.Unparen(e).(*ast.Ident)
	o := c.TypesInfo.ObjectOf(id)
	return ok && o != nil && o == c.TypesInfo.ObjectOf(other)
}

// sortedLater reports whether the first statement that names a variable, after
// those around, sorts it.
func (c *checker) sortedLater(id *ast.Ident, stack []ast.Node) bool {
	if id == nil {
		return false
	}
	for i := len(stack) - 1; i >= 0; i-- {
		block, ok := stack[i].(*ast.BlockStmt)
		if !ok {
			continue
		}
		after := token.NoPos // the end of what is within the block
		if i+1 < len(stack) {
			after = stack[i+1].End()
		}
		for _, s := range block.List {
			if s.Pos() < after || s.Pos() <= id.Pos() || !c.names(s, id) {
				continue
			}
			return c.sorts(s, id)
		}
	}
	return false
}

func (c *checker) names(n ast.Node, id *ast.Ident) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		if other, ok := n.(*ast.Ident); ok {
			found = found || c.same(id, other)
		}
		return !found
	})
	return found
}

// sorts reports whether a statement is a call that sorts a variable.
func (c *checker) sorts(s ast.Stmt, id *ast.Ident) bool {
	e, ok := s.(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := e.X.(*ast.CallExpr)
	if !ok || len(call.Args) == 0 || !c.names(call.Args[0], id) {
		return false
	}
	f := c.callee(call)
	if f == nil || f.Pkg() == nil {
		return false
	}
	switch f.Pkg().Path() {
	case "sort":
		return true
	case "slices":
		return f.Name() == "Sort" || f.Name() == "SortFunc" || f.Name() == "SortStableFunc"
	}
	return false
}
