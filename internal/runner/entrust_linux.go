package runner

import (
	"errors"
	"io/fs"

	"connectrpc.com/connect"

	"github.com/stepward/stepward/internal/rpc"
)

// entrust gives a new exec the secrets that are its own, and returns the call of a
// guest. x.mu is held.
func (x *execs) entrust(e *exec, req *rpc.ExecRequest) (call []byte, err error) {
	var g grant
	defer func() {
		if err != nil { // it will not begin, and so not end: nobody waits for it
			x.secrets.ended(e)
		}
	}()
	switch {
	case req.Guest != nil:
		if g, err = x.secrets.forGuest(e, req.Guest); err != nil {
			return nil, err
		}
	case len(req.Secrets) > 0:
		var p program
		if p, err = findProgram(req.Name, req.Dir, e.env); errors.Is(err, fs.ErrNotExist) {
			return nil, connect.NewError(connect.CodeNotFound, err)
		} else if err != nil {
			return nil, refused("%s", err)
		}
		if g, err = x.secrets.forCommand(e, req.Secrets, p); err != nil {
			return nil, err
		}
		e.program, e.grant = p.path, g
	}
	if name := steering(req.Env); len(g) > 0 && name != "" {
		g.wipe()
		return nil, refused("variable %s: by it programs execute, load or trust something, and what has secrets takes no such word of a worker", name)
	}
	if !x.landlock && (x.holding != nil || len(g) > 0 && x.live > 0) {
		g.wipe()
		return nil, connect.NewError(connect.CodeAborted, errors.New("nothing keeps commands apart here, so one that has secrets runs alone"))
	}
	if len(g) > 0 && !x.landlock {
		x.holding = e
	}
	if req.Guest == nil {
		return nil, nil
	}
	g.call(req.Guest)
	call, err = encodeCall(req.Guest)
	g.wipe()
	req.Guest.Secrets = nil
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return call, nil
}

// setFrozen stops all that runs, or lets it go on.
func (x *execs) setFrozen(frozen bool) {
	x.freezing.Lock()
	defer x.freezing.Unlock()
	x.mu.Lock()
	x.frozen = frozen
	x.mu.Unlock()
	for _, e := range x.all() {
		e.setFrozen(frozen)
	}
}

// all returns all execs that there are.
func (x *execs) all() (all []*exec) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.byID {
		all = append(all, e)
	}
	if x.spare != nil {
		all = append(all, x.spare)
	}
	return all
}

// keepFrozen stops an exec that was being started when all were.
func (x *execs) keepFrozen(e *exec) {
	x.freezing.Lock() // or it would be stopped after all were let go
	defer x.freezing.Unlock()
	x.mu.Lock()
	frozen := x.frozen
	x.mu.Unlock()
	if frozen {
		e.setFrozen(true)
	}
}
