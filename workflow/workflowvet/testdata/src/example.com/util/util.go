// Package util is what an application has beside its workflows.
package util

import (
	"os"
	"sync"
	"time"
)

func Stamp() string { return format(time.Now()) } // want Stamp:"calls time.Now"

func Deep() string { return Stamp() } // want Deep:"calls util.Stamp, which calls time.Now"

func Home() string { return os.Getenv("HOME") } // want Home:"calls os.Getenv"

func Work() { // want Work:"starts a goroutine"
	go format(time.Time{})
}

func format(t time.Time) string { return t.Format(time.RFC3339) }

var mu sync.Mutex

// Pure locks, which does no harm outside of a body.
func Pure() string {
	mu.Lock()
	defer mu.Unlock()
	return "pure"
}

// Clock only holds a function that asks the clock.
func Clock() func() time.Time { return func() time.Time { return time.Now() } }

func Known() string {
	//workflowvet:ignore a name that no host changes
	return os.Getenv("REGION")
}

type Thing struct{}

func (*Thing) Age() time.Duration { return time.Since(time.Time{}) } // want Age:"calls time.Since"
