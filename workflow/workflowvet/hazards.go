package workflowvet

import (
	"go/types"
	"strings"
)

// A hazard is something that comes out differently on a replay.
type hazard struct {
	instead string // the durable way
	local   bool   // matters in a body only, not in what it calls
}

const (
	insteadStep   = "put it into a step"
	insteadLogger = "use ctx.Logger(), which is silent on a replay"
	insteadGo     = "use workflow.Go, Step.Go or workflow.Map"
	insteadTimer  = "use workflow.Sleep in a branch of its own (workflow.Go), or ctx.WithTimeout"
	insteadLock   = "branches of a body take turns between durable calls and need no locks; one that is held when the run leaves its worker stays locked"
	insteadRandom = "use ctx.Random()"
)

// names lists functions of a package, or methods as Type.Method; "*" is all of
// them, and "Prefix*" those that begin so. What follows a "-" is excepted.
type names map[string]hazard

var step = hazard{instead: insteadStep}

var known = map[string]names{
	"time": {
		"Now": {instead: "use ctx.Now()"}, "Since": {instead: "use ctx.Now().Sub(t)"}, "Until": {instead: "use t.Sub(ctx.Now())"},
		"Sleep": {instead: "use workflow.Sleep(ctx, d)"}, "After": {instead: insteadTimer}, "AfterFunc": {instead: insteadTimer},
		"Tick": {instead: insteadTimer}, "NewTimer": {instead: insteadTimer}, "NewTicker": {instead: insteadTimer},
	},
	// A generator with a fixed seed is the same on every replay.
	"math/rand":    {"*": {instead: insteadRandom}, "-New": {}, "-NewSource": {}, "-NewZipf": {}, "-Rand.*": {}, "-Zipf.*": {}},
	"math/rand/v2": {"*": {instead: insteadRandom}, "-New": {}, "-NewPCG": {}, "-NewChaCha8": {}, "-NewZipf": {}, "-Rand.*": {}, "-Zipf.*": {}, "-PCG.*": {}, "-ChaCha8.*": {}},
	"crypto/rand":  {"*": {instead: insteadRandom + ", or " + insteadStep + " if it has to be secret"}},
	"hash/maphash": {"*": {instead: "use another hash, as its seed is another one in each process"}},

	"context": {"Background": {instead: "a body has its workflow.Context and passes on no other; what needs a context.Context belongs into a step", local: true},
		"TODO": {instead: "a body has its workflow.Context and passes on no other; what needs a context.Context belongs into a step", local: true}},

	"os":            {"*": step, "-IsExist": {}, "-IsNotExist": {}, "-IsPermission": {}, "-IsTimeout": {}, "-IsPathSeparator": {}, "-Expand": {}, "-NewSyscallError": {}, "-*Error.*": {}, "-FileMode.*": {}},
	"os/exec":       {"*": step, "-*Error.*": {}},
	"os/user":       {"*": step},
	"os/signal":     {"*": step},
	"io/ioutil":     {"*": step},
	"path/filepath": {"Abs": step, "EvalSymlinks": step, "Glob": step, "Walk": step, "WalkDir": step},
	"syscall":       {"*": step, "-Errno.*": {}},
	"net": {"Dial*": step, "Listen*": step, "Lookup*": step, "Resolve*": step, "Interface*": step, "File*": step,
		"Dialer.*": step, "Resolver.*": step, "ListenConfig.*": step, "TCPConn.*": step, "UDPConn.*": step, "UnixConn.*": step},
	"net/http": {"Get": step, "Head": step, "Post": step, "PostForm": step, "ListenAndServe*": step, "Serve": step, "ServeTLS": step,
		"Client.*": step, "Server.*": step, "Transport.RoundTrip": step},
	"net/smtp":     {"*": step},
	"net/rpc":      {"*": step},
	"database/sql": {"Open*": step, "Drivers": step, "DB.*": step, "Tx.*": step, "Conn.*": step, "Stmt.*": step, "Rows.*": step, "Row.*": step},
	"fmt": {"Print": {instead: insteadLogger}, "Printf": {instead: insteadLogger}, "Println": {instead: insteadLogger},
		"Scan": step, "Scanf": step, "Scanln": step},
	"log": {"*": {instead: insteadLogger}, "-New": {}, "-Logger.SetPrefix": {}, "-Logger.SetFlags": {}, "-Logger.Prefix": {}, "-Logger.Flags": {}},
	"log/slog": {"Debug*": {instead: insteadLogger}, "Info*": {instead: insteadLogger}, "Warn*": {instead: insteadLogger}, "Error*": {instead: insteadLogger},
		"Log": {instead: insteadLogger}, "LogAttrs": {instead: insteadLogger}, "Default": {instead: insteadLogger}},

	"sync": {"Mutex.*": {insteadLock, true}, "RWMutex.*": {insteadLock, true}, "WaitGroup.*": {insteadGo, true}, "Cond.*": {insteadLock, true},
		"Once.*": {"a once that is spent stays so when the run leaves its worker; call the function", true}, "Pool.*": {insteadLock, true}, "Map.Range": {"its order is another one each time; use a map and sort its keys", true}},
}

// trees are whole trees of packages whose functions and methods do input and
// output, or start goroutines.
var trees = map[string]hazard{
	"github.com/jackc/pgx/v5": step,
	"golang.org/x/sys":        step,
	"golang.org/x/sync":       {instead: insteadGo},
}

// hazardOf returns what is known by name of a function or method.
func hazardOf(f *types.Func) (hazard, bool) {
	if f.Pkg() == nil {
		return hazard{}, false
	}
	path := f.Pkg().Path()
	for tree, h := range trees {
		if path == tree || strings.HasPrefix(path, tree+"/") {
			return h, true
		}
	}
	list := known[path]
	if list == nil {
		return hazard{}, false
	}
	name := f.Name()
	if recv := f.Signature().Recv(); recv != nil {
		name = typeName(recv.Type()) + "." + name
	}
	for pattern := range list {
		if except, ok := strings.CutPrefix(pattern, "-"); ok && matches(except, name) {
			return hazard{}, false
		}
	}
	for pattern, h := range list {
		if !strings.HasPrefix(pattern, "-") && matches(pattern, name) {
			return h, true
		}
	}
	return hazard{}, false
}

func matches(pattern, name string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	if pattern == "*" {
		return true
	}
	if !strings.HasPrefix(name, before) {
		return false
	}
	if strings.HasSuffix(after, ".*") { // *Error.*: methods of types that end so
		recv, _, method := strings.Cut(name, ".")
		return method && strings.HasSuffix(recv, strings.TrimSuffix(after, ".*"))
	}
	return strings.Contains(before, ".") || !strings.Contains(name, ".")
}

func typeName(t types.Type) string {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := types.Unalias(t).(*types.Named); ok {
		return n.Obj().Name()
	}
	return ""
}

// display is how a function is named in a report: time.Now, (*sync.Mutex).Lock.
func display(f *types.Func) string {
	name := f.Name()
	if recv := f.Signature().Recv(); recv != nil {
		return types.TypeString(recv.Type(), (*types.Package).Name) + "." + name
	}
	if f.Pkg() != nil {
		return f.Pkg().Name() + "." + name
	}
	return name
}
