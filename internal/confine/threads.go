package confine

import (
	"runtime"
	"sync"
)

// FewThreads, in the environment of a part of a sandbox, keeps the threads that its
// runtime wants few, on a machine of however many processors.
const FewThreads = "GOMAXPROCS=2"

// KeepThreads makes n threads that stay. A Go program ends when it needs a new
// one and cannot have it, as happens beside a fork bomb.
func KeepThreads(n int) {
	var all, started sync.WaitGroup
	release := make(chan struct{})
	for range n {
		started.Add(1)
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			started.Done()
			<-release
		})
	}
	started.Wait()
	close(release)
	all.Wait()
}
