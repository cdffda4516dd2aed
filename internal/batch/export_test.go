package batch

// Waiting returns how many calls are in the queue.
func (g *Group[I, O]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}
